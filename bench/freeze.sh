#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Measures at native speed how long I/O pauses when a leaf is frozen: the
# longest time between two completed writes of fio, beside the longest of the
# same run before the freeze. Runs inside the build root.
#   bench/freeze.sh [FILE [SLABS:RUNS]...]
# FILE gets the table as JSON. By default 16,384 slabs five times, and a million
# twice.
. "$(dirname "$0")/../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" bench/freeze.sh "$@"

file=${1:-$BUILD/bench/freeze.json}
shift || true
[ $# -gt 0 ] || set -- 16384:5 1000000:2
work=$BUILD/bench
mkdir -p "$work"
"$TOP/scripts/build.sh" tools modules-bench-smp
nice -n -20 "$TOP/scripts/uml.sh" -n freeze -m 6144 -c 2 -t 1200 -f "$TOP/bench/guest:guest" \
	-f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl" \
	-f "$BUILD/kmod-bench-smp/unionblk.ko" -- bash guest/freeze.sh "$@" | tee "$work/freeze.out"
[ "${PIPESTATUS[0]}" = 0 ] || die "the scene failed"
python3 -B "$TOP/bench/freeze.py" "$work/freeze.out" "$file"
