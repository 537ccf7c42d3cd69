#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs the core over every state that a power failure can leave, on the host.
# SIZE, SEED and REPLAY as in run.sh.
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/crash/states.sh

export CARGO_TARGET_DIR=$BUILD/cargo
cargo build --locked -q -p crash
crash=$CARGO_TARGET_DIR/debug/crash
if [ -n "${REPLAY:-}" ]; then
	exec "$crash" replay "$REPLAY"
fi
exec nice "$crash" "${SIZE:-quick}" "${SEED:-1}"
