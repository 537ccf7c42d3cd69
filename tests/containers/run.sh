#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Tests ubsnapd in a guest with the stock kernel: containerd's own suite of snapshotters, tests of
# limits, of space, of a daemon that is killed and of a power failure; and containerd with images
# from a registry in the guest.
#   tests/containers/run.sh                 all but the stack of 128 layers and containerd
#   FULL=1 tests/containers/run.sh          all
#   tests/containers/run.sh containerd [N]  containerd with N containers of each image (3; FULL: 20)
#   tests/containers/run.sh EXPRESSION      the tests that the expression of Go's -test.run names
# Each test is a line "passed: NAME" or "FAILED: NAME".
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/containers/run.sh "$@"

# The suite of containerd 1.7 has so many tests, one of them a stack of 128 layers.
suite=20
[ -z "${FULL:-}" ] || suite=21
"$TOP/scripts/build.sh" modules ubsnapd
disk=$BUILD/containers.img
failed=0

# boot NAME STATUS SECONDS [OPTION]... -- COMMAND...: a boot, which must end with the status
boot() {
	local log=$BUILD/log/containers-$1.out name=$1 want=$2 seconds=$3 code=0
	shift 3
	"$TOP/scripts/vm.sh" -n "containers-$name" -t $((seconds + 60)) -d "$disk" \
		-f "$BUILD/kmod/unionblk.ko" -f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubsnapd" \
		-f "$TOP/tests/containers/guest:guest" "$@" >"$log" || code=$?
	# Go's lines, and those of KTAP.
	sed -nE 's/^ *--- PASS: /passed: /p; s/^ *--- FAIL: /FAILED: /p; s/^ *--- SKIP: /skipped: /p
		s/^ok [0-9]+ - /passed: /p; s/^not ok [0-9]+ - /FAILED: /p; s/^# (measured: )/    \1/p' "$log"
	[ $code = "$want" ] && return
	failed=1
	say "FAILED: the boot $name ended with status $code"
	tail -n 60 "$log" | sed 's/^/   | /'
}

# suite NAME STATUS SECONDS EXPRESSION [WORD]...: tests in Go
suite() { boot "$1" "$2" "$3" -m 3072 -f "$program" -- sh guest/suite "${@:3}"; }

# containerd NAME STATUS SECONDS COUNT before|after: the cases of guest/containerd
containerd() {
	local planned
	boot "$1" "$2" "$3" -m 4096 -d "$programs,ro" -f "$TOP/tests/crash/guest/ktap:guest/ktap" \
		-- sh guest/containerd "$4" "$5"
	planned=$(sed -n 's/^1\.\.//p' "$BUILD/log/containers-$1.out")
	[ "$(grep -cE '^(not )?ok ' "$BUILD/log/containers-$1.out")" = "$planned" ] ||
		{ say "FAILED: the boot $1 has not ended all of its ${planned:-} cases"; failed=1; }
}

new_disk() {
	rm -f "$disk"
	truncate -s 12G "$disk"
}

all_of_containerd() {
	local count=$1
	programs=$("$TOP/scripts/container-programs.sh")
	new_disk
	containerd containerd 77 $((1500 + 60 * count)) "$count" before
	[ $failed = 0 ] || return 0
	containerd again 0 900 1 after
}

new_disk
case ${1:-} in
containerd) all_of_containerd "${2:-$([ -n "${FULL:-}" ] && echo 20 || echo 3)}" ;;
'')
	program=$("$TOP/scripts/snapshot-suite.sh")
	suite suite 0 200 'Suite|Killed|Limit' skip=Suite/128LayersMount
	new_disk
	suite before 77 100 BeforePowerFailure fail
	suite after 0 100 AfterPowerFailure mount
	if [ -n "${FULL:-}" ]; then
		suite layers 0 1200 Suite/128LayersMount ram
		all_of_containerd 20
	else
		rm -f "$BUILD/log/containers-layers.out"
	fi
	found=$(cat "$BUILD"/log/containers-{suite,layers}.out 2>/dev/null | grep -c '^    --- PASS: TestSnapshotterSuite/' || true)
	[ "$found" = $suite ] || { say "FAILED: of $suite tests of the suite, $found passed"; failed=1; }
	;;
*)
	program=$("$TOP/scripts/snapshot-suite.sh")
	suite chosen 0 460 "$1"
	;;
esac
rm -f "$disk"
exit $failed
