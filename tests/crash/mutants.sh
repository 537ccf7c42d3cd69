#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes bugs that other projects shipped in our core, one at a time: the test
# that is named beside each must fail with it. The core stage and the races
# check that it passes without. With SIZE=full the states campaign runs on each
# bug as well.
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/crash/mutants.sh

# MUTANT PACKAGE TEST-FILE TEST WHETHER-A-CUT-SHOWS-IT
mutants=(
	"commit-without-flush ubcore shipped a_commit_flushes_the_data_that_it_names states"
	"superblock-despite-failed-flush ubcore shipped a_superblock_is_not_written_when_the_flush_before_it_fails -"
	"last-epoch-not-reloaded ubcore shipped the_last_epoch_is_loaded_again states"
	"one-buffer-for-two ubcore shipped what_goes_out_together_does_not_share_a_buffer states"
	"free-after-reload ubcore shipped what_is_in_use_is_not_free_after_a_reload states"
	"bits-before-data ubcore shipped a_write_that_fails_maps_nothing -"
	"bits-race races marks writes_of_one_word_from_two_queues -"
)

export CARGO_TARGET_DIR=$BUILD/cargo
# The scenes are small, so most of the time goes to the compiler.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0

program() {
	python3 -c '
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("executable"):
        print(m["executable"])'
}

caught=0
one() {
	local name=$1 package=$2 file=$3 test=$4 states=$5 bin out
	local features=()
	[ "$package" != races ] || features=(--features model)
	mkdir -p "$BUILD/mutants/$name"
	ln -sf "$TOP/tests/crash/mutant-rustc" "$BUILD/mutants/$name/rustc"
	export RUSTC_WORKSPACE_WRAPPER=$BUILD/mutants/$name/rustc
	bin=$(cargo test --locked -q -p "$package" "${features[@]}" --test "$file" --no-run --message-format=json | program)
	grep -q '^of_a_mutant:' <<<"$("$bin" --list)" || { say "FAILED: $name: what was built is no mutant"; return; }
	if out=$(timeout 120 "$bin" --exact "$test" 2>&1); then
		say "FAILED: $name: $test passes even so"
	elif grep -q "test $test ... FAILED" <<<"$out"; then
		say "caught: $name, by $package/$file $test"
		caught=$((caught + 1))
	else
		say "FAILED: $name: $test did not run"
		tail -n 5 <<<"$out"
	fi
	[ "${SIZE:-quick}" != quick ] && [ "$states" = states ] || return 0
	bin=$(cargo build --locked -q -p crash --message-format=json | program)
	if "$bin" quick "${SEED:-1}" >"$BUILD/log/mutant-$name.log"; then
		say "FAILED: $name: no state is unlawful"
		caught=$((caught - 1))
	else
		say "caught: $name, by $(grep -m 1 'once more' "$BUILD/log/mutant-$name.log")"
	fi
}

mkdir -p "$BUILD/log"
for m in "${mutants[@]}"; do
	read -ra words <<<"$m"
	one "${words[@]}"
done
failures=$((${#mutants[@]} - caught))
printf 'mutants=%d/%d failures=%d\n' "$caught" ${#mutants[@]} "$failures"
[ "$failures" = 0 ]
