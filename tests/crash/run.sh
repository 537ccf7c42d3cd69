#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The crash campaigns: runs the parts one after another, continues after a
# failure, and adds up what they counted in the last line.
#   tests/crash/run.sh [PART]...    default: all that are there; list: prints them
# SIZE=quick (default), full or soak; SEED=N; REPLAY='OPERATIONS' runs only
# that.
# soak repeats full, each time with the next seed, until a failure or an
# interrupt.
#
# A part is tests/crash/PART.sh, run in the build root with SIZE and SEED set.
# It reports in KTAP, which report.py shows and adds up. Its output is in
# build/log/crash-PART.log.
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/crash/run.sh "$@"

export SIZE=${SIZE:-quick} SEED=${SEED:-1}
case $SIZE in quick | full | soak) ;; *) die "SIZE=$SIZE: quick, full or soak" ;; esac
here=$TOP/tests/crash
all=(states mutants races order-mutants errors points power-failures kills freezes)

mkdir -p "$BUILD/log"
if [ -n "${REPLAY:-}" ]; then
	exec "$here/states.sh"
fi
[ $# -gt 0 ] || set -- "${all[@]}"
[ "$*" != list ] || { printf '%s\n' "${all[@]}"; exit; }
for part; do
	[[ " ${all[*]} " == *" $part "* ]] || die "no part $part: ${all[*]}"
done
exec "$here/report.py" "$@"
