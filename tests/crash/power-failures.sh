#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Power failures in a live kernel. SIZE, SEED as in run.sh; KERNEL=kunit for the
# kernel with lockdep.
. "$(dirname "$0")/lib.sh"

crash_build
round() { crash_guest power-failures 3600 -m 768 -- sh crash/power-failures "$SIZE" "$1"; }
# The soak ends on an interrupt, or when it finds something.
while [ "$SIZE" = soak ]; do
	round "$SEED" || exit
	SEED=$((SEED + 100))
done
round "$SEED"
