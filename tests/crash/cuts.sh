#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Cuts of power in a live kernel. SIZE, SEED as in run.sh; KERNEL=kunit for the
# kernel with lockdep.
. "$(dirname "$0")/lib.sh"

crash_build
round() { crash_guest cuts 3600 -m 768 -- sh crash/cuts "$SIZE" "$1"; }
# Until told, or until something is found.
while [ "$SIZE" = soak ]; do
	round "$SEED" || exit
	SEED=$((SEED + 100))
done
round "$SEED"
