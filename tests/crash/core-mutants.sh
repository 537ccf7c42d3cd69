#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# cargo-mutants over the core: what no quick test notices. Hours on an idle
# machine, so nobody's part; a share of it says as much as all.
#   tests/crash/core-mutants.sh [SHARD/SHARDS] [FILE]...
#     SHARD/SHARDS   every so-manieth mutant, 0/1 for all of them (default 0/16)
#     FILE           of rust/ubcore (default: where the map and its order live)
# Ends with "caught=N of=N", and a line for each survivor before it, in
# build/core-mutants/missed.txt.
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/crash/core-mutants.sh "$@"

version=25.0.1
shard=0/16
if [[ ${1:-} == */* ]]; then
	shard=$1
	shift
fi
[ $# -gt 0 ] || set -- commit.rs journal.rs map.rs bits.rs alloc.rs plan.rs attach.rs pages.rs salvage.rs

# Outside the tree: it is a tool, and takes minutes to build.
tool=$CACHE/tools/bin/cargo-mutants
[ -x "$tool" ] || cargo install -q --locked --root "$CACHE/tools" cargo-mutants --version $version

# A copy of the sources in which the quick tests are one program: linking a dozen
# for each mutant would cost more than they do.
work=$BUILD/core-mutants
rm -rf "$work"
mkdir -p "$work/tree/tools" "$work/tree/tests"
cp -r Cargo.toml Cargo.lock rust "$work/tree"
cp -r tools/ubctl "$work/tree/tools"
cp -r tests/crash tests/races "$work/tree/tests"
(
	cd "$work/tree/rust/ubcore"
	for f in tests/*.rs; do
		case ${f##*/} in torn.rs | campaign.rs | check_lives.rs) continue ;; esac
		printf '#[path = "%s"]\nmod %s;\n' "${f##*/}" "$(basename "$f" .rs)"
	done >all.rs
	mv all.rs tests/all.rs
	sed -i 's/^publish = false/publish = false\nautotests = false/' Cargo.toml
	printf '\n[[test]]\nname = "all"\npath = "tests/all.rs"\n' >>Cargo.toml
)
files=()
for f; do files+=(-f "rust/ubcore/$f"); done

export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=1 LIVES=100
export CARGO_TARGET_DIR=$BUILD/core-mutants-cargo PATH=$PATH:${tool%/*}
cd "$work/tree"
cargo mutants -p ubcore --in-place "${files[@]}" --shard "$shard" -o "$work" --timeout 60 --build-timeout 240 \
	--no-shuffle -- --locked --lib --test all -- --skip rot_is_named_and_never_followed || [ $? = 2 ] || [ $? = 3 ] || die "cargo-mutants failed"
cd "$work/mutants.out"
cp missed.txt "$work/missed.txt"
caught=$(cat caught.txt timeout.txt | wc -l)
of=$((caught + $(wc -l <missed.txt)))
printf 'caught=%d of=%d\n' "$caught" "$of"
