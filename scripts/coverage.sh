#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Measures the line coverage of the core by its cargo tests, with the
# toolchain's instruments. Test code is not counted, because it covers itself.
# Fails below the floor. Writes the lines that never ran to
# build/log/coverage-missed.txt.
#   scripts/coverage.sh [FLOOR]    per cent, default 90
. "$(dirname "$0")/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/coverage.sh "$@"

floor=${1:-90}
dir=$BUILD/coverage
mkdir -p "$dir" "$BUILD/log"
rm -f "$dir"/*.profraw

# The programs of the tests, by the names that cargo gives them.
RUSTFLAGS=-Cinstrument-coverage CARGO_TARGET_DIR=$dir LLVM_PROFILE_FILE=$dir/build.%p.profraw \
	cargo test --locked -p ubcore --no-run --message-format=json >"$dir/build.json"
mapfile -t programs < <(python3 -c '
import json, sys
for line in open(sys.argv[1]):
    m = json.loads(line)
    if m.get("executable") and m.get("profile", {}).get("test"):
        print(m["executable"])' "$dir/build.json" | sort -u)
[ ${#programs[@]} -gt 0 ] || die "cargo built no test of the core"

cd "$TOP/rust/ubcore"
for program in "${programs[@]}"; do
	# This runs fewer random workloads than the tests, because only lines count
	# here.
	WORKLOADS=300 PROPTEST_CASES=32 LLVM_PROFILE_FILE=$dir/run.%p.profraw timeout 1200 "$program" -q >"$dir/run.log" 2>&1 || {
		tail -n 30 "$dir/run.log"
		die "$(basename "$program") failed"
	}
done
llvm-profdata merge -sparse "$dir"/run.*.profraw -o "$dir/all.profdata"
objects=()
for program in "${programs[@]:1}"; do objects+=(-object "$program"); done
llvm-cov export -format=lcov -instr-profile "$dir/all.profdata" "${programs[0]}" "${objects[@]}" \
	--ignore-filename-regex='/(registry|rustc|library|tests)/' >"$dir/lcov"

awk -v floor="$floor" -v top="$TOP/" -v missed="$BUILD/log/coverage-missed.txt" '
	BEGIN { printf "" >missed }
	/^SF:/ {
		file = substr($0, 4)
		# The tests of this file begin there.
		end = 1e9; n = 0
		while ((getline line < file) > 0) {
			n++
			if (line ~ /^#\[cfg\((any\()?test/) { end = n; break }
		}
		close(file)
		sub("^" top, "", file)
	}
	/^DA:/ {
		split(substr($0, 4), d, ",")
		if (d[1] >= end || seen[file, d[1]]++) next
		lines++; of[file]++
		if (d[2] > 0) { hit++; hits[file]++ } else printf "%s:%d\n", file, d[1] >missed
	}
	END {
		for (f in of) printf "  %5.1f %%  %4d of %4d  %s\n", 100 * hits[f] / of[f], hits[f], of[f], f | "sort -k5"
		close("sort -k5")
		if (!lines) { print "no line of the core was measured"; exit 1 }
		printf "line coverage of the core: %.1f %% (%d of %d lines), floor %d %%\n", 100 * hit / lines, hit, lines, floor
		exit 100 * hit / lines < floor
	}' "$dir/lcov"
