#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Models of races: runs the scenarios of tests/races under schedules that a
# scheduler chooses. SIZE=quick or full, SEED as in run.sh.
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/crash/races.sh

# shellcheck source=tests/crash/guest/ktap
. "$TOP/tests/crash/guest/ktap"
export CARGO_TARGET_DIR=$BUILD/cargo SEED=${SEED:-1}
case ${SIZE:-quick} in
quick) schedules=1000 rounds=1 ;;
full) schedules=20000 rounds=1 ;;
*) die "SIZE=$SIZE: quick or full" ;;
esac
program=$(cargo test --locked -q -p races --features model --test marks --no-run --message-format=json | executables)

# Each half of the scenarios has a separate process, because a scenario has one
# thread.
mapfile -t scenarios < <("$program" --list | sed -n 's/: test$//p')
half() {
	local n=$1 seed=$2 scenario list=()
	for scenario in "${!scenarios[@]}"; do [ $((scenario % 2)) != "$n" ] || list+=("${scenarios[scenario]}"); done
	SCHEDULES=$schedules SEED=$seed nice "$program" --exact --nocapture --test-threads 1 "${list[@]}"
}
last=$((SEED + rounds - 1))
plan $((2 * rounds))
for ((seed = SEED; seed <= last; seed++)); do
	pids=()
	for n in 0 1; do
		half "$n" "$seed" >"$BUILD/log/races-$n.log" 2>&1 &
		pids+=($!)
	done
	for n in 0 1; do
		status=0
		wait "${pids[n]}" || status=$?
		# A failing schedule is a page of digits. Its seed gives the
		# same information.
		grep -vE '^[0-9a-f]{40,}$' "$BUILD/log/races-$n.log" | notes
		grep -q '^test result: ok' "$BUILD/log/races-$n.log" || status=${status/#0/1}
		ends "races of seed $seed, half $n" "$status"
	done
	[ "$failures" = 0 ] || break
done
[ "$failures" = 0 ]
