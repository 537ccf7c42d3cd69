#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Checks that the strata of the source stay separate, and the house rules that
# no compiler checks. Prints "file:line: why" for each breach; fails if there is
# one.
#   scripts/check-strata.sh [DIR]    (default: this tree)
#   core    rust/ubcore   uses core, zerocopy and super:: alone; cannot panic
#   policy  rust/*.rs, rust/union     safe Rust: no unsafe, no bindings
#   wrappers rust/blk, rust/sys, rust/trace    the only unsafe; no word of the format,
#           also not in comments; in rust/blk and rust/sys no word of unions either
# Atomics come from rust/ubcore/sync.rs in the core (its models: race_model.rs) and from rust/sys/atomic.rs
# elsewhere, because models replace the former and upstream may replace the latter.
# Private state of the block core is the core's to change: the list of bios and the plug of a task, and
# the reference counter of a queue. rust/blk/queue_freeze.c says why it is the exception for the last.
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"
shopt -s nullglob globstar

# Prints code without its comments, its strings and its tests, which begin at
# the first test attribute at the margin. Line numbers stay the same.
code_of() {
	awk '
		/^#\[cfg\((any\()?test/ { exit }
		{
			gsub(/"([^"\\]|\\.)*"/, "\"\"")
			sub(/\/\/.*/, "")
			print
		}' "$1"
}

breaches=0
# forbid FILE WHY EXPRESSION [EXCEPT]: searches code only
forbid() {
	local hit
	while IFS= read -r hit; do
		printf '%s:%s: %s\n' "$1" "${hit%%:*}" "$2"
		breaches=$((breaches + 1))
	done < <(code_of "$1" | grep -nE "$3" | grep -vE "${4:-^$}")
}

word() { printf '(^|[^A-Za-z0-9_])(%s)([^A-Za-z0-9_]|$)' "$1"; }

for f in rust/ubcore/**/*.rs; do
	case $f in rust/ubcore/tests/*) continue ;; esac
	forbid "$f" "the core names another crate or the crate's root" '(^|[^:A-Za-z0-9_])(kernel|std|crate)::|extern crate'
	forbid "$f" "the core uses more than core, zerocopy and super::" '^ *(pub(\([a-z]+\))? )?use [a-z:]' '[0-9]+: *(pub(\([a-z]+\))? )?use (core|zerocopy|zerocopy_derive|super|self)(::|;)'
	forbid "$f" "unsafe in the core" "$(word unsafe)"
	forbid "$f" "the core could panic" '\.(unwrap|expect)\(|(^|[^_a-z])(panic|todo|unimplemented|unreachable|assert|assert_eq|assert_ne)!' 'const .*assert'
done
for f in rust/*.rs rust/union/**/*.rs; do
	forbid "$f" "unsafe in policy: it belongs in rust/blk or rust/sys" "$(word unsafe)"
	forbid "$f" "bindings in policy: they belong in rust/blk or rust/sys" "$(word bindings)"
done
for f in rust/blk/* rust/sys/* rust/trace/*; do
	words='ubcore|superblock|superblocks|journal|slab|slabs'
	case $f in rust/trace/*) ;; *) words+='|union|unions|root|roots|leaf|crate::(memory|control|resources|trace)' ;; esac
	while IFS= read -r hit; do
		printf '%s:%s: a wrapper names the format or the union\n' "$f" "${hit%%:*}"
		breaches=$((breaches + 1))
	done < <(grep -niE "$(word "$words")" "$f")
done

for f in rust/**/*.rs; do
	case $f in rust/ubcore/sync.rs | rust/ubcore/race_model.rs | rust/sys/atomic.rs | rust/ubcore/tests/*) continue ;; esac
	forbid "$f" "atomics of another file than sync.rs and sys/atomic.rs" 'sync::(atomic|barrier)|(^|[^A-Za-z0-9_])(Atomic(<|::)|smp_[rw]?mb)'
done

for f in rust/**/*.{rs,c,h}; do
	private='bio_list *=([^=]|$)|(->|\)\.)plug *=([^=]|$)|(^|[^A-Za-z0-9_])PF_BLOCK_TS'
	[ "$f" = rust/blk/queue_freeze.c ] || private+='|q_usage_counter'
	forbid "$f" "changes private state of the block core" "$private"
done

# Every file states its licence in its first lines, and none is too long to
# read.
for f in rust/**/*.{rs,c,h} tools/**/*.rs include/**/*.h scripts/* scripts/demo/* tests/**/*.{rs,sh,c,S,config} \
	bench/**/*.{sh,py,c,h,fio,config} tests/bench/*.py bench/guest/* tests/vm/check tests/vm/new tests/vm/*.py tests/vm/common/* tests/vm/*/[0-9][0-9][0-9] .ci/run Kbuild Makefile; do
	[ -f "$f" ] || continue
	if ! head -n 2 "$f" | grep -q 'SPDX-License-Identifier:' && [[ $f != *packages.txt && $f != *.config ]]; then
		printf '%s:1: no SPDX line\n' "$f"
		breaches=$((breaches + 1))
	fi
	lines=$(wc -l <"$f")
	if [ "$lines" -gt 600 ]; then
		printf '%s:%s: %s lines: over 600\n' "$f" "$lines" "$lines"
		breaches=$((breaches + 1))
	fi
	# rustfmt does not wrap comments.
	[[ $f != *.rs ]] || while read -r n; do
		printf '%s:%s: a comment of more than 100 columns\n' "$f" "$n"
		breaches=$((breaches + 1))
	done < <(awk 'length($0) > 100 && /^[ \t]*\/\// { print FNR }' "$f")
done
[ $breaches = 0 ] || { printf '%d breaches\n' $breaches; exit 1; }
