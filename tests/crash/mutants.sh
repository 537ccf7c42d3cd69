#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes bugs that other projects shipped, and bugs of layers, of resets and of growth, one at a
# time, by the patches of tests/crash/mutants in a copy of the tree. The test that is named beside
# each bug must fail with the bug, and pass without it. With SIZE=full the states campaign must also
# find the bugs that are marked with "states".
. "$(dirname "$0")/patches.sh"

# MUTANT PACKAGE TEST-FILE TEST WHETHER-A-POWER-FAILURE-SHOWS-IT
mutants=(
	"commit-without-flush ubcore known_bugs a_commit_flushes_the_data_that_it_names states"
	"superblock-despite-failed-flush ubcore known_bugs a_superblock_is_not_written_when_the_flush_before_it_fails -"
	"last-transaction-not-reloaded ubcore known_bugs the_last_transaction_is_loaded_again states"
	"one-buffer-for-two ubcore known_bugs what_goes_out_together_does_not_share_a_buffer states"
	"free-after-reload ubcore known_bugs what_is_in_use_is_not_free_after_a_reload states"
	"bits-before-data ubcore known_bugs a_write_that_fails_maps_nothing -"
	"bits-race races marks writes_of_one_word_from_two_queues -"
	"frozen-before-flush ubcore frozen a_power_failure_freezes_all_or_nothing states"
	"frozen-written-again ubcore frozen the_committer_that_froze_writes_no_more -"
	"reset-replays-the-journal ubcore reset nothing_is_left_of_any_workload states"
	"reset-keeps-the-map ubcore reset nothing_is_left_of_any_workload states"
	"reset-not-durable ubcore reset a_power_failure_resets_all_or_nothing states"
	"grow-forgets-the-journal ubcore grow nothing_changes_in_any_workload states"
	"grow-not-durable ubcore grow a_power_failure_leaves_the_old_sizes_or_the_new_ones states"
	"seal-header-first ubcore sealed_damage a_power_failure_leaves_all_or_nothing -"
	"seal-named-early ubctl cut seal -"
	"new-leaf-not-durable ubctl cut format_on_layers -"
)

export CARGO_TARGET_DIR=$BUILD/cargo-mutants
# The scenarios are small, so most of the time goes to the compiler.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0

# test_of PACKAGE TEST-FILE: builds and prints the program that has the tests of a file.
test_of() {
	local features=() file=suite
	[ "$1" != races ] || features=(--features model) file=$2
	# The tests of the tool build the tool as well.
	program test -p "$1" "${features[@]}" --test "$file" --no-run | grep /deps/
}

# verdict PROGRAM TEST-FILE TEST: prints "ok", "FAILED", or nothing if the test did not run.
verdict() {
	local test=$3
	[[ $1 != */suite-* ]] || test=$2::$3
	{ timeout 120 "$1" --exact "$test" 2>&1 || true; } | sed -n "s/^test $test \.\.\. //p"
}

# Without a patch each test passes; and a patch of code that has changed is
# refused.
check_campaign() {
	local name package file test _ bin said bad=0 patch=$BUILD/mutants/changed.patch
	for m in "${mutants[@]}"; do
		read -r name package file test _ <<<"$m"
		bin=$(test_of "$package" "$file")
		said=$(verdict "$bin" "$file" "$test")
		[ "$said" = ok ] || { note "$test, without the mutant $name: ${said:-did not run}"; bad=1; }
	done
	ends "the tests pass without a mutant" $bad
	sed 's/^-[^-].*/& changed since/' "$TOP/tests/crash/mutants/$name.patch" >"$patch"
	if apply "$patch" >/dev/null 2>&1; then
		fails "a patch of $name whose code has changed is refused"
	else
		passes "a patch of $name whose code has changed is refused"
	fi
}

caught=0
one() {
	local name=$1 package=$2 file=$3 test=$4 states=$5 patch=$TOP/tests/crash/mutants/$1.patch log=$BUILD/log/mutant-$1.log bin said
	apply "$patch" || { fails "$name: the patch applies"; return; }
	if ! bin=$(test_of "$package" "$file" 2>"$log"); then
		note "$log"
		fails "$name: it compiles"
	else
		said=$(verdict "$bin" "$file" "$test")
		if [ "$said" = FAILED ]; then
			passes "$name, caught by $package/$file $test"
			caught=$((caught + 1))
		else
			fails "$name: $test fails: ${said:-did not run}"
		fi
		[ "${SIZE:-quick}" = quick ] || [ "$states" != states ] || campaign "$name" "$log"
	fi
	revert "$patch"
}

# campaign NAME LOG: the states campaign has to find the bug too.
campaign() {
	local bin
	bin=$(program build -p crash)
	if "$bin" quick "${SEED:-1}" >"$2"; then
		fails "$1: a state is invalid"
	else
		passes "$1, caught by $(grep -m 1 -o 'once more.*' "$2")"
	fi
}

mkdir -p "$BUILD/log"
copy_sources "$BUILD/mutants"
mapfile -t core < <(printf '%s\n' "${mutants[@]}" | awk '$2 == "ubcore" { print $3 }')
mapfile -t tool < <(printf '%s\n' "${mutants[@]}" | awk '$2 == "ubctl" { print $3 }')
keep_tests rust/ubcore "${core[@]}"
keep_tests tools/ubctl "${tool[@]}"
cases=$((${#mutants[@]} + 2))
[ "${SIZE:-quick}" = quick ] || cases=$((cases + $(printf '%s\n' "${mutants[@]}" | grep -c ' states$')))
plan $cases
check_campaign
for m in "${mutants[@]}"; do
	read -ra words <<<"$m"
	one "${words[@]}"
done
note "mutants: $caught/${#mutants[@]}"
[ "$failures" = 0 ]
