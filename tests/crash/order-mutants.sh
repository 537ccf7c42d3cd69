#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Breaks one rule of the protocol at a time, by the patches of
# tests/races/mutants in a copy of the tree. The quick campaign of races must
# fail with each, or one of the core's tests that run a flush at each access of
# a discard, and a write with a flush at each access of an assignment, because
# shuttle seldom finds so narrow a window, or the one in which a write waits for
# memory, because the scenarios have memory.
#   tests/crash/order-mutants.sh [NAME]...    default: all patches
# SIZE=quick tries only assign-clears-bits.
. "$(dirname "$0")/patches.sh"

export CARGO_TARGET_DIR=$BUILD/cargo-order-mutants CARGO_PROFILE_DEV_DEBUG=0
# These are the values that tests/crash/races.sh uses for SIZE=quick.
export SCHEDULES=1000 SEED=${SEED:-1} RUST_BACKTRACE=0

names=("$@")
if [ ${#names[@]} = 0 ] && [ "${SIZE:-quick}" = quick ]; then
	names=(assign-clears-bits)
elif [ ${#names[@]} = 0 ]; then
	names=("$TOP"/tests/races/mutants/*.patch)
	names=("${names[@]##*/}")
	names=("${names[@]%.patch}")
fi

copy_sources "$BUILD/order-mutants"
keep_tests rust/ubcore assigned emptied short_of_memory

# campaign BINARY LOG: runs the scenarios, and ends them all when one has failed.
campaign() {
	local pid code=0
	timeout 900 "$1" >"$2" 2>&1 &
	pid=$!
	while kill -0 $pid 2>/dev/null; do
		! grep -aqE '^test [a-z_0-9]+ \.\.\. FAILED' "$2" || kill $pid 2>/dev/null || true
		sleep 1
	done
	wait $pid || code=$?
	return $code
}

caught=0

# core_test NAME LOG: the scenarios have found nothing.
core_test() {
	local bin
	if ! bin=$(program test -p ubcore --test suite --no-run 2>>"$2"); then
		note "$2"
		fails "$1: it compiles"
	elif "$bin" assigned:: emptied:: short_of_memory:: >>"$2" 2>&1; then
		fails "$1: the quick campaign does not pass"
	else
		passes "$1, caught by $(grep -am 1 -oE '^test [a-z_0-9:]+ \.\.\. FAILED' "$2" | cut -c6-) of the core"
		caught=$((caught + 1))
	fi
}

one() {
	local name=$1 patch=$TOP/tests/races/mutants/$1.patch log=$BUILD/log/order-mutant-$1.log bin scenario
	apply "$patch" || { fails "$name: the patch applies"; return; }
	if bin=$(program test -p races --features model --test marks --no-run 2>"$log"); then
		if campaign "$bin" "$log"; then
			core_test "$name" "$log"
		elif scenario=$(grep -am 1 -oE '^test [a-z_0-9]+ \.\.\. FAILED' "$log"); then
			passes "$name, caught by ${scenario#test }"
			caught=$((caught + 1))
		else
			note "$log"
			fails "$name: a scenario fails"
		fi
	else
		note "$log"
		fails "$name: it compiles"
	fi
	revert "$patch"
}

mkdir -p "$BUILD/log"
plan ${#names[@]}
for name in "${names[@]}"; do one "$name"; done
note "rules: $caught/${#names[@]}"
[ "$failures" = 0 ]
