#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Tests the counter of instructions (bench/plugin) with a program whose instructions are known.
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/bench/counter.sh

"$TOP/scripts/build.sh" counter
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gcc -m32 -nostdlib -static -no-pie -Wl,-Ttext=0x100000 -Wl,--build-id=none -o "$work/counted" "$TOP/tests/bench/counted.S"
kernel=$(nm "$work/counted" | awk '$3 == "kernel" { print $1 }')
# run PLUGIN
run() {
	timeout -k 5 60 qemu-system-x86_64 -accel tcg,thread=single -icount shift=0,sleep=off -cpu max -nodefaults \
		-display none -no-reboot -kernel "$work/counted" -plugin "$1,out=$work/counts"
}

# small BITS: builds the counter with a hash table of so many bits.
small() { gcc -O2 -fPIC -shared -DPLACE_BITS="$1" -o "$work/small.so" "$TOP/bench/plugin/counter.c"; }

# The addresses of a section in their order, the first in full, then user space. A section has one of
# its two marks.
counted() {
	awk -v number="$1" '$1 == "section" { on = $2 == number; next } on' "$work/counts" | sort |
		awk '$1 == "user" { print; next } NR == 1 { printf "%s ", $1 } { $1 = ""; print substr($0, 2) }'
}
check() {
	diff - <(counted 1) <<-END
		user 2002
	END
	diff - <(counted 2) <<-END
		ffffffff${kernel/#0/8} 1
		1
		7 indirect
		7
		7
		1
		1 indirect
		7
		7
		user 2
	END
	[ "$(grep -c section "$work/counts")" = 2 ] || die "$(grep -c section "$work/counts") sections, not 2"
}
# In a table that is nearly full, addresses share their first place with others.
small 4
for plugin in "$BUILD/counter/counter.so" "$work/small.so"; do
	run "$plugin"
	check
done
small 3
! run "$work/small.so" 2>"$work/said" || die "a table that is too small was not noticed"
grep -q '^counter: too many different instructions' "$work/said" || die "it said: $(cat "$work/said")"
say "the counter counts exactly, by address"
