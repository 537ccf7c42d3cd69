#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The crash campaigns: runs the parts one after another, continues after a
# failure, and adds up what they counted in the last line.
#   tests/crash/run.sh [PART]...    default: all that are there
# SIZE=quick (default), full or soak; SEED=N; REPLAY='OPERATIONS' runs only
# that.
# soak repeats full, each time with the next seed, until a failure or an
# interrupt.
#
# A part is tests/crash/PART.sh, run in the build root with SIZE and SEED set.
# Its last line gives its counts, "states=48000 failures=0", and it fails if
# failures is not 0. Its output is in build/log/crash-PART.log.
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/crash/run.sh "$@"

export SIZE=${SIZE:-quick} SEED=${SEED:-1}
case $SIZE in quick | full | soak) ;; *) die "SIZE=$SIZE: quick, full or soak" ;; esac
here=$TOP/tests/crash
all=(states mutants races order-mutants errors points cuts kills)
# The counts of the last line, in this order, and the counts of the line before
# it.
told=(states points cuts kills mutants)
besides=(schedules rules injections checks mounts)

declare -A sum=()
failures=0
# A count is a number, or a number of a number.
add() {
	local key=$1 value=$2 old
	if [ "$key" = failures ]; then
		failures=$((failures + value))
	elif [[ $value == */* ]]; then
		sum[$key]=$value
	else
		old=${sum[$key]:-0}
		sum[$key]=$((old + value))
	fi
}

run_part() {
	local part=$1 log=$BUILD/log/crash-$1.log start=$SECONDS code=0 last pair before=$failures
	if [ ! -x "$here/$part.sh" ]; then
		printf '%s: not there yet, not counted\n' "$part"
		return
	fi
	# The sequences are the same with every seed, so one round of them is
	# enough.
	local size=$SIZE
	[ "$size" != soak ] || [ "$part" = states ] || size=full
	printf '>> crash/%s (%s, seed %s)\n' "$part" "$SIZE" "$SEED"
	SIZE=$size "$here/$part.sh" 2>&1 | tee "$log" | if [ -n "${V:-}" ]; then cat; else
		grep --line-buffered -E '^(FAILED|  once more)' | sed -u 's/^/   /'
	fi || code=${PIPESTATUS[0]}
	last=$(tail -n 1 "$log")
	if [[ $last =~ ^([a-z]+=[0-9/]+ )+failures=[0-9]+$ ]]; then
		for pair in $last; do add "${pair%%=*}" "${pair#*=}"; done
	else
		code=1
	fi
	if [ "$code" != 0 ]; then
		[ "$failures" -gt "$before" ] || failures=$((failures + 1))
		tail -n 20 "$log" | sed 's/^/   | /'
	fi
	if [ "$failures" = "$before" ]; then printf 'passed: '; else printf 'FAILED: '; fi
	printf 'crash/%s: %s (%d s)\n' "$part" "$last" $((SECONDS - start))
}

mkdir -p "$BUILD/log"
if [ -n "${REPLAY:-}" ]; then
	exec "$here/states.sh"
fi
[ $# -gt 0 ] || set -- "${all[@]}"
for part; do
	[[ " ${all[*]} " == *" $part "* ]] || die "no part $part: ${all[*]}"
done
tell() {
	local line="crash:" more="" key
	for key in "${told[@]}"; do line+=" $key=${sum[$key]:--}"; done
	for key in "${besides[@]}"; do [ "${sum[$key]:-0}" = 0 ] || more+=" $key=${sum[$key]}"; done
	[ -z "$more" ] || printf 'counted besides:%s\n' "$more"
	printf '%s failures=%d\n' "$line" "$failures"
}
trap 'tell; exit 130' INT TERM
while :; do
	for part; do run_part "$part"; done
	tell
	if [ "$SIZE" != soak ] || [ "$failures" != 0 ]; then break; fi
	SEED=$((SEED + 1))
done
[ "$failures" = 0 ]
