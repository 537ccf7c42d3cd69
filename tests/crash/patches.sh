# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Functions for the parts that run tests on wrong code: a copy of the sources,
# and patches that are applied to it. Sourced, never run.
. "$(dirname "$0")/../../scripts/lib.sh"
# shellcheck source=tests/crash/guest/ktap
. "$TOP/tests/crash/guest/ktap"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" "tests/crash/$(basename "$0")" "$@"

# copy_sources DIR: copies what cargo builds, and keeps the directory in $copy.
# The files of the copy are new, because cargo could otherwise take the programs
# of the last patch for up to date.
copy_sources() {
	local d
	copy=$1
	rm -rf "$copy"
	mkdir -p "$copy/tests"
	cp -r "$TOP"/Cargo.* "$TOP/rust" "$TOP/tools" "$TOP/include" "$copy"
	for d in "$TOP"/tests/*/Cargo.toml; do cp -r "$(dirname "$d")" "$copy/tests"; done
}

# keep_tests PACKAGE-DIRECTORY FILE...: leaves only these files in the tests' one program of the
# copy, because the compiler takes most of the time of a mutant.
keep_tests() {
	local suite=$copy/$1/tests/suite.rs
	printf 'mod %s;\n' "${@:2}" | sort -u >"$suite"
}

# A patch must match exactly: with fuzz it could change another place.
change() { patch -s -p1 -F0 --no-backup-if-mismatch -r - -d "$copy" "$@"; }
apply() { change <"$1"; }
revert() { change -R <"$1"; }

# program CARGO-ARGUMENT...: builds in the copy and prints the program.
program() { (cd "$copy" && cargo "$@" --locked -q --message-format=json | executables); }
