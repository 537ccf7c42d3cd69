#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Fails each lower I/O in turn, on the stock kernel, and each allocation, on the
# kernel that can make one fail. SIZE, SEED as in run.sh.
. "$(dirname "$0")/lib.sh"

# Returns whether the kernel complained about anything but the allocations that
# were made to fail. For such an allocation it may show the calls, too.
complained() {
	local console=$BUILD/log/vm-crash-errors-$1.console others failed_here
	others=$(complaints | sed 's/Call Trace|//')
	! grep -aE "$others" "$console" || return 0
	failed_here=$(grep -acE 'vmalloc error|page allocation failure' "$console" || true)
	[ "$(grep -ac 'Call Trace' "$console" || true)" -gt "$failed_here" ]
}

# errors KERNEL io|memory: prints the output of the run; sets $last to its last
# line
errors() {
	local kernel=$1 what=$2 log=$BUILD/log/crash-errors-$2.out
	KERNEL=$kernel crash_build
	crash_guest "errors-$what" 3600 -m 768 -u -- sh crash/errors "$what" "$SIZE" "$SEED" | tee "$log" || failed=1
	if complained "$what"; then
		say "FAILED: the kernel complained: $BUILD/log/vm-crash-errors-$what.console"
		failed=1
	fi
	last=$(tail -n 1 "$log")
	[[ $last =~ ^injections=([0-9]+)\ failures=([0-9]+)$ ]] || { failed=1; return 0; }
	injections=$((injections + BASH_REMATCH[1]))
	failures=$((failures + BASH_REMATCH[2]))
}
injections=0 failures=0 failed=0
errors stock io
errors kunit memory
[ $failed = 0 ] || [ $failures -gt 0 ] || failures=1
echo "injections=$injections failures=$failures"
[ $failures = 0 ]
