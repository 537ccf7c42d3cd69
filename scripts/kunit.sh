#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs the module's KUnit suites: loads the module into a KUNIT=y kernel, in
# QEMU (x86_64, with lockdep and kmemleak) or as User-Mode Linux (um, quick),
# and counts the verdicts in the kernel's log. It fails if there is no verdict.
#   scripts/kunit.sh x86_64|um
. "$(dirname "$0")/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/kunit.sh "$@"

arch=${1:?x86_64 or um}
console=$BUILD/log/vm-kunit-$arch.console
ko=$BUILD/kmod-kunit-$arch/unionblk.ko

in_qemu() {
	"$TOP/scripts/vm.sh" -k kunit -n kunit-x86_64 -t 180 -a 'kunit.enable=1 kmemleak=on' \
		-f "$ko" -f "$TOP/tests/kunit/guest:guest" -- sh guest
}

in_uml() {
	local image base work code=0
	image=$("$TOP/scripts/kernel-kunit.sh" um)/image
	base=$("$TOP/scripts/initramfs.sh" um)
	work=$(mktemp -d)
	mkdir -p "$work/tree/vm" "$work/host"
	cp "$ko" "$TOP/tests/kunit/guest" "$work/tree/vm/"
	echo 'exec sh guest' >"$work/tree/vm/job"
	echo "$work/host" >"$work/tree/vm/hostfs"
	(cd "$work/tree" && find . | cpio --quiet -H newc -o -R 0:0) | cat "$base" - >"$work/initrd"
	# UML keeps its memory in a file of TMPDIR, which must allow execution.
	TMPDIR=/tmp timeout -k 5 120 "$image" mem=1024M "initrd=$work/initrd" con=null con0=null,fd:1 \
		kunit.enable=1 panic=-1 loglevel=7 </dev/null >"$console" 2>&1 || true
	[ ! -s "$work/host/out" ] || cat "$work/host/out"
	code=$(sed -n 's/^exit //p' "$work/host/status" 2>/dev/null || true)
	rm -r "$work"
	if grep -aE "$(complaints)" "$console" >&2; then return 126; fi
	return "${code:-125}"
}

# Cases are indented by one level: "    ok 1 name", "    not ok 2 name", with "#
# SKIP". The plans say how many there must be.
count_verdicts() {
	sed -E 's/\r$//; s/^\[ *[0-9.]+\] ?//' "$console" | sed '1,/^unionblk suites begin/d' | awk '
		/^    1\.\.[0-9]+$/ { planned += substr($1, 4); suites++ }
		/^    ok [0-9]+ .*# SKIP/ { skipped++; next }
		/^    ok [0-9]+ / { passed++ }
		/^    not ok [0-9]+ / { failed++; sub(/^ +/, ""); print "  " $0 > "/dev/stderr" }
		END {
			missing = planned - passed - failed - skipped
			if (missing > 0) failed += missing
			printf "%d %d %d %d %d", passed, failed, skipped, suites, missing
		}'
}

"$TOP/scripts/build.sh" "modules-kunit-$arch"
mkdir -p "$BUILD/log"
code=0
start=$SECONDS
case $arch in
x86_64) in_qemu || code=$? ;;
um) in_uml || code=$? ;;
*) die "no architecture $arch: x86_64 or um" ;;
esac
read -r passed failed skipped suites missing < <(count_verdicts; echo)
if [ "$code" != 0 ]; then
	say "the guest's run ended with status $code: see $console"
	failed=$((failed + 1))
fi
if [ "$failed" != 0 ]; then
	grep -aE '# .*(EXPECTATION|ASSERTION) FAILED' -A 6 "$console" | head -n 60 || true
	[ "$missing" -le 0 ] || say "$missing cases were planned and never ended"
fi
if [ "$suites" = 0 ]; then
	say "no KUnit suite ran: see $console"
	failed=$((failed + 1))
fi
say "KUnit on $arch: $suites suites, $((SECONDS - start)) s"
printf '%d passed, %d failed' "$passed" "$failed"
[ "$skipped" = 0 ] || printf ', %d skipped' "$skipped"
printf '\n'
[ "$failed" = 0 ]
