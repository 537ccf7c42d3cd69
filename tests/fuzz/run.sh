#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Fuzzes everything that reads a leaf, guided by coverage, by libFuzzer, with
# the stable compiler and the compiler passes that cargo-fuzz turns on.
#   tests/fuzz/run.sh [TARGET]...    default: all
#   FUZZ_SECONDS=60   for all targets together
#   FUZZ_RUNS=N       as well, at most so many executions of each
# First runs every input in tests/fuzz/crashes/TARGET, then new ones. The corpus
# is in build/fuzz/corpus, crashes in build/fuzz/crashes, the executions of all
# runs in build/fuzz/executions, with a line "TARGET N" for each run.
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/fuzz/run.sh "$@"

all=(superblock directory journal attach check repair sealed chain)
[ $# -gt 0 ] || set -- "${all[@]}"
seconds=${FUZZ_SECONDS:-60} dir=$BUILD/fuzz triple=x86_64-unknown-linux-gnu
mkdir -p "$dir/crashes" "$dir/corpus" "$BUILD/log"

build() {
	local flag flags='--cfg fuzzing -Cpasses=sancov-module'
	for flag in level=4 inline-8bit-counters pc-table trace-compares; do
		flags+=" -Cllvm-args=-sanitizer-coverage-$flag"
	done
	(cd tests/fuzz && CARGO_TARGET_DIR=$BUILD/cargo-fuzz RUSTFLAGS=$flags \
		cargo build --release --locked --target $triple --bins)
}
stage "build the fuzz targets" build
bin=$BUILD/cargo-fuzz/$triple/release
[ -n "$(ls "$dir/corpus")" ] || FUZZ_SEEDS=$dir/corpus "$bin/attach" >/dev/null

failed=0 sum=0
# replay TARGET FILE...: runs each alone; the best of three must take at most a
# second.
replay() {
	local target=$1 file try
	shift
	for file; do
		[ -f "$file" ] || continue
		for try in 1 2 3; do
			"$bin/$target" -timeout=1 "$file" >"$dir/replay.log" 2>&1 && continue 2
			grep -q 'ERROR: libFuzzer: timeout' "$dir/replay.log" || break
		done
		printf 'FAILED: %s: %s (attempt %d)\n' "$target" "$file" "$try"
		tail -n 30 "$dir/replay.log"
		failed=$((failed + 1))
	done
}

for target; do
	mkdir -p "$dir/corpus/$target" "$dir/crashes/$target"
	replay "$target" tests/fuzz/crashes/"$target"/*
	log=$BUILD/log/fuzz-$target.log code=0
	# An input counts as slow only if it takes a second on an idle machine
	# too. replay, below, checks that.
	"$bin/$target" -max_total_time=$((seconds / $# + 1)) -runs="${FUZZ_RUNS:--1}" -timeout=20 \
		-report_slow_units=1 -rss_limit_mb=2048 -print_final_stats=1 \
		-artifact_prefix="$dir/crashes/$target/" "$dir/corpus/$target" >"$log" 2>&1 || code=$?
	runs=$(awk '/^stat::number_of_executed_units:/ { print $2 }' "$log")
	slowest=$(awk '/^stat::slowest_unit_time_sec:/ { print $2 }' "$log")
	edges=$(awk '{ for (i = 1; i < NF; i++) if ($i == "cov:") c = $(i + 1) } END { print c + 0 }' "$log")
	[ -n "$runs" ] || runs=$(awk '/^#[0-9]/ { n = substr($1, 2) } END { print n + 0 }' "$log")
	printf '%s %s\n' "$target" "$runs" >>"$dir/executions"
	sum=$((sum + runs))
	if [ $code != 0 ]; then
		printf 'FAILED: %s\n' "$target"
		grep -aE -m 1 -A 12 'panicked at|ERROR: libFuzzer' "$log" || tail -n 20 "$log"
		grep -a 'Test unit written' "$log" || true
		failed=$((failed + 1))
	else
		printf 'passed: %s: %d executions, %d edges, slowest %s s\n' "$target" "$runs" "$edges" "${slowest:-?}"
	fi
	replay "$target" "$dir/crashes/$target"/slow-unit-*
done
printf 'fuzz: %d executions now, %d in all runs of this tree\n' $sum \
	"$(awk '{ n += $2 } END { printf "%d", n }' "$dir/executions")"
[ $failed = 0 ]
