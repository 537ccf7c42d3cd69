#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Tests ubsnapd in a guest with the stock kernel: containerd's own suite of snapshotters, and
# tests of limits, of space, of a daemon that is killed and of a power failure.
#   tests/containers/run.sh [EXPRESSION]    the tests that the expression of Go's -test.run names
# Each test is a line "passed: NAME" or "FAILED: NAME".
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/containers/run.sh "$@"

# The suite of containerd 1.7 has so many tests.
suite=21
"$TOP/scripts/build.sh" modules ubsnapd
program=$("$TOP/scripts/snapshot-suite.sh")
disk=$BUILD/containers.img
failed=0

# boot NAME STATUS SECONDS EXPRESSION [WORD]...: a boot, which must end with the status
boot() {
	local log=$BUILD/log/containers-$1.out want=$2 code=0
	"$TOP/scripts/vm.sh" -n "containers-$1" -m 3072 -t $(($3 + 60)) -d "$disk" \
		-f "$BUILD/kmod/unionblk.ko" -f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubsnapd" \
		-f "$program" -f "$TOP/tests/containers/guest:guest" \
		-- sh guest/suite "${@:3}" >"$log" || code=$?
	sed -nE 's/^ *--- PASS: /passed: /p; s/^ *--- FAIL: /FAILED: /p; s/^ *--- SKIP: /skipped: /p' "$log"
	[ $code = "$want" ] && return
	failed=1
	say "FAILED: the boot $1 ended with status $code"
	tail -n 60 "$log" | sed 's/^/   | /'
}
new_disk() {
	rm -f "$disk"
	truncate -s 8G "$disk"
}

new_disk
if [ $# -gt 0 ]; then
	boot chosen 0 460 "$1"
else
	boot suite 0 200 'Suite|Killed|Limit' skip=Suite/128LayersMount
	new_disk
	boot before 77 100 BeforePowerFailure fail
	boot after 0 100 AfterPowerFailure mount
	boot layers 0 400 Suite/128LayersMount ram
	found=$(cat "$BUILD"/log/containers-{suite,layers}.out | grep -c '^    --- PASS: TestSnapshotterSuite/' || true)
	[ "$found" = $suite ] || { say "FAILED: of $suite tests of the suite, $found passed"; failed=1; }
fi
rm -f "$disk"
exit $failed
