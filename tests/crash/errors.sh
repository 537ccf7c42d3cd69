#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Each lower I/O in turn fails, on the stock kernel; each allocation, on the one
# that can make it fail. SIZE, SEED as in run.sh.
. "$(dirname "$0")/lib.sh"

# errors KERNEL io|memory: prints what it does; its last line in $last
errors() {
	local kernel=$1 what=$2 log=$BUILD/log/crash-errors-$2.out
	KERNEL=$kernel crash_build
	crash_guest "errors-$what" 3600 -m 768 -- sh crash/errors "$what" "$SIZE" "$SEED" | tee "$log" || failed=1
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
