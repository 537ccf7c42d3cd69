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

# errors KERNEL io|memory
errors() {
	local what=$2 status=0
	KERNEL=$1 crash_build
	crash_guest "errors-$what" 3600 -m 768 -u -- sh crash/errors "$what" "$SIZE" "$SEED" || status=$?
	plan 2
	ends "errors-$what: the guest" $status
	if complained "$what"; then
		note "$BUILD/log/vm-crash-errors-$what.console"
		fails "errors-$what: the kernel did not complain"
	else
		passes "errors-$what: the kernel did not complain"
	fi
}
errors stock io
errors kunit memory
[ $failures = 0 ]
