#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Tests the strata check and the check of the word list, because a check that
# lets a breach pass is worse than none. Plants one breach of each kind in a
# small tree, and the check must find it.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
passed=0 failed=0
spdx='// SPDX-License-Identifier: GPL-2.0'

# try WANTED FILE LINE: WANTED is ok or the words of the complaint
try() {
	local d out
	d=$(mktemp -d)
	mkdir -p "$d/rust/ubcore/format" "$d/rust/blk" "$d/rust/sys" "$d/rust/trace" "$d/rust/union" "$d/scripts"
	printf '%s\nuse super::num;\n' "$spdx" >"$d/rust/ubcore/map.rs"
	printf '%s\n' "$spdx" >"$d/rust/union/io.rs"
	printf '%s\nunsafe { bindings::bio_put(bio) }\n' "$spdx" >"$d/rust/blk/bio.rs"
	[ "$1" = 'no SPDX' ] || [ -s "$d/$2" ] || printf '%s\n' "$spdx" >"$d/$2"
	printf '%b\n' "$3" >>"$d/$2"
	out=$("$top/scripts/check-strata.sh" "$d" || true)
	rm -r "$d"
	if { [ "$1" = ok ] && [ -z "$out" ]; } || { [ "$1" != ok ] && grep -q "^$2:[0-9]*: .*$1" <<<"$out"; }; then
		passed=$((passed + 1))
	else
		printf 'strata: %s in %s: wanted "%s", got "%s"\n' "$3" "$2" "$1" "$out"
		failed=$((failed + 1))
	fi
}

try ok rust/ubcore/map.rs 'const X: usize = core::mem::size_of::<u8>();'
try ok rust/ubcore/map.rs '// unsafe, std:: and unwrap() in a comment'
try ok rust/ubcore/map.rs 'use super::alloc::Allocator;'
try ok rust/ubcore/map.rs '#[cfg(any(test, kernel))]\nmod tests { use std::vec; fn f() { g().unwrap() } }'
try ok rust/ubcore/map.rs 'const _: () = assert!(X == 1);'
try 'names another crate' rust/ubcore/map.rs 'fn f() { std::mem::swap(a, b) }'
try 'names another crate' rust/ubcore/format/a.rs 'use crate::num;'
try 'names another crate' rust/ubcore/map.rs 'fn f() { kernel::pr_info!(1) }'
try 'names another crate' rust/ubcore/map.rs 'extern crate alloc;'
try 'uses more than core' rust/ubcore/map.rs 'pub use libc::c_int;'
try 'unsafe in the core' rust/ubcore/map.rs 'fn f() { unsafe { g() } }'
try 'could panic' rust/ubcore/map.rs 'fn f() { g().unwrap(); }'
try 'could panic' rust/ubcore/map.rs 'fn f() { unreachable!() }'
try 'unsafe in policy' rust/union/io.rs 'unsafe impl Send for X {}'
try 'bindings in policy' rust/union/io.rs 'use kernel::bindings;'
try 'bindings in policy' rust/control.rs 'use kernel::bindings;'
try 'names the format' rust/blk/bio.rs '// the journal is written here'
try 'names the format' rust/sys/task.rs 'use crate::union::Union;'
try 'names the format' rust/blk/bio.rs '// the bio goes to the leaf'
try 'names the format' rust/sys/task.rs '/// Waits for the Root.'
try ok rust/sys/task.rs '// it leaves nothing behind'
try ok rust/trace/mod.rs '/// Trace events of a union.'
try ok rust/trace/mod.rs 'unsafe { ffi::ub_trace_free(disk) }'
try 'names the format' rust/trace/mod.rs '// the journal is written here'
try 'unsafe in policy' rust/union/events.rs 'fn f() { unsafe { g() } }'
try 'atomics of another' rust/union/io.rs 'use core::sync::atomic::AtomicBool;'
try 'atomics of another' rust/blk/bio.rs 'use core::{ptr, sync::atomic::AtomicBool};'
try 'atomics of another' rust/sys/task.rs 'static N: Atomic<u64> = Atomic::new(0);'
try 'atomics of another' rust/ubcore/map.rs 'use core::sync::atomic::Ordering;'
try 'atomics of another' rust/control.rs 'fn f() { smp_mb(Full); }'
try ok rust/sys/atomic.rs 'pub(crate) use core::sync::atomic::AtomicBool;'
try ok rust/ubcore/sync.rs 'pub use core::sync::atomic::AtomicBool;'
try ok rust/blk/bio.rs 'use crate::sys::atomic::AtomicBool;'
try ok rust/trace/mod.rs 'use crate::blk::GenDiskRef;'
try 'private state' rust/blk/helpers.c 'current->bio_list = NULL;'
try 'private state' rust/blk/helpers.c 'swap(bio_list, current->plug); current->plug =\n\tNULL;'
try 'private state' rust/blk/plug.rs 'unsafe { (*task).plug = ptr::null_mut() };'
try 'private state' rust/blk/plug.rs 'unsafe { (*task).bio_list = list };'
try 'private state' rust/blk/helpers.c 'current->flags &= ~PF_BLOCK_TS;'
try 'private state' rust/blk/helpers.c 'percpu_ref_get(&q->q_usage_counter);'
try ok rust/blk/queue_freeze.c 'percpu_ref_get(&q->q_usage_counter);'
try ok rust/blk/helpers.c 'WARN_ON_ONCE(current->bio_list == NULL);'
try 'over 600' rust/union/io.rs "$(seq 610)"
try 'more than 100 columns' rust/union/io.rs "// $(printf 'word %.0s' {1..25})"
try 'no SPDX' scripts/x.sh ''

# word WANTED FILE TEXT: WANTED is ok or the line of the breach
word() {
	local d out
	d=$(mktemp -d)
	git -C "$d" init -q
	mkdir -p "$d/$(dirname "$2")"
	printf '%b\n' "$3" >"$d/$2"
	out=$("$top/scripts/check-words.py" "$d" || true)
	rm -rf "$d"
	if { [ "$1" = ok ] && [ -z "$out" ]; } || { [ "$1" != ok ] && grep -q "^$2:$1: " <<<"$out"; }; then
		passed=$((passed + 1))
	else
		printf 'words: %s in %s: wanted "%s", got "%s"\n' "$3" "$2" "$1" "$out"
		failed=$((failed + 1))
	fi
}

word ok rust/a.rs "fn waits<'a>(whoever: &'a str) -> char { '\"' } // A thread that waits."
word 1 rust/a.rs 'fn it_goes_on() {}'
word 1 rust/a.rs '// Nobody waits.'
word 2 rust/a.rs '\nlet text = "it goes on";'
word 3 rust/a.rs '\nlet text = "it waits \\\n    for nobody";'
word 2 rust/a.rs '//! This is a slab of\n//! its own.'
word 1 rust/a.rs 'let text = r#"those "that" or those that"#;'
word 2 tests/a.c '/*\n * Somebody waits. */'
word 1 tests/a.c 'puts("a cut of power");'
word ok tests/a.c 'int nobody;'
word 2 scripts/a.py 'nobody = 1\n"""Tells somebody."""'
word 1 scripts/a.py 'x = 1  # of its own'
word 1 Cargo.toml '# It is told.'
word 1 tests/vm/x/001 '# shellcheck shell=sh: by and by'
word 2 tests/vm/x/001 '# shellcheck shell=sh\nDESCRIPTION="nobody reads"'
word 2 scripts/a.sh '#!/bin/bash\necho "it goes on"'
word 3 Documentation/a.rst 'It says::\n\n  nobody'
word 1 Documentation/a.rst '*the page is told*'
printf '%d passed, %d failed\n' $passed $failed
[ $failed = 0 ]
