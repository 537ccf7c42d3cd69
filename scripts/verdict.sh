# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Evaluates how a guest's run has ended, for vm.sh and uml.sh. Sourced, never
# run.

# verdict CODE SECONDS STATUS-FILE CONSOLE [scan]: ends the script with the
# status of the guest's command, or with the reason why there is none. CODE is
# that of the emulator or kernel, SECONDS its limit. With scan, a complaint of
# the kernel is a failure.
verdict() {
	local code=$1 limit=$2 console=$4 scan=${5:-} status found
	if [ "$code" = 124 ] || [ "$code" = 137 ]; then
		say "the guest did not end within $limit s; the end of its console:" >&2
		tail -n 20 "$console" >&2
		exit 124
	fi
	status=$(sed -n 's/^exit \([0-9]*\).*/\1/p' "$3" 2>/dev/null || true)
	[ -n "$status" ] || status=$(sed -n 's/.*guest-init: exit \([0-9]*\).*/\1/p' "$console" | tail -n 1)
	if [ -z "$status" ]; then
		say "the guest died (status $code) before its command ended; the end of its console:" >&2
		tail -n 40 "$console" >&2
		exit 125
	fi
	if [ -n "$scan" ] && found=$(grep -aE "$(complaints)" "$console"); then
		say "the kernel complained (all of it in $console):" >&2
		head -n 10 <<<"$found" >&2
		[ "$status" != 0 ] || status=126
	fi
	exit "$status"
}
