#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Tests every mutant of the core that cargo-mutants lists, and records which
# test notices it: first the quick tests, then for the survivors all other tests
# of the core and the models of races. It takes an hour or more, so no campaign
# runs it.
#   tests/crash/core-mutants.sh [-s] [FILE]...
#     -s     only the survivors of the last run: after tests were added
#     FILE   of rust/ubcore (default: where the map and its order live)
# Ends with a line for each file and "caught=N of=N". The survivors are in
# build/core-mutants/missed.txt, and the tests that caught the others in
# results.json.
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/crash/core-mutants.sh "$@"

version=25.0.1
again=
if [ "${1:-}" = -s ]; then
	again=yes
	shift
fi
[ $# -gt 0 ] || set -- commit.rs journal/ring.rs journal/replay.rs journal/scan.rs journal/writer.rs map.rs map/emptying.rs bits.rs alloc.rs plan.rs attach.rs pages.rs salvage.rs

# It is outside the tree because it is a tool and takes minutes to build.
tool=$CACHE/tools/bin/cargo-mutants
[ -x "$tool" ] || cargo install -q --locked --root "$CACHE/tools" cargo-mutants --version $version

# A copy of the sources, in which the mutants are made.
work=$BUILD/core-mutants tree=$BUILD/core-mutants/tree
rm -rf "$tree"
mkdir -p "$tree/tools" "$tree/tests"
cp -r Cargo.toml Cargo.lock rust "$tree"
cp -r tools/map-memory tools/ubctl tools/ubsnapd "$tree/tools"
cp -r tests/crash tests/races tests/sim tests/tool "$tree/tests"

files=()
for f; do files+=(-f "rust/ubcore/$f"); done
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=1
export CARGO_TARGET_DIR=$BUILD/core-mutants-cargo RUSTFLAGS=--cap-lints=warn PATH=$PATH:${tool%/*}
cd "$tree"
cargo mutants -p ubcore --list --json "${files[@]}" >"$work/new.json"
if [ -z "$again" ]; then
	rm -f "$work/results.json"
elif ! cmp -s "$work/new.json" "$work/list.json"; then
	die "these are not the mutants of the last run: leave -s out"
fi
mv "$work/new.json" "$work/list.json"
exec python3 "$TOP/tests/crash/core-mutants.py" "$work/list.json" "$tree"
