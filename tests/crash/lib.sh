# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Functions shared by the campaigns that need a guest. Sourced, never run.
. "$(dirname "$0")/../../scripts/lib.sh"
# shellcheck source=tests/crash/guest/ktap
. "$TOP/tests/crash/guest/ktap"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" "tests/crash/$(basename "$0")"
SIZE=${SIZE:-quick} SEED=${SEED:-1}
KERNEL=${KERNEL:-stock}

# Builds everything that a guest needs.
crash_build() {
	local ko nth
	case $KERNEL in
	stock)
		"$TOP/scripts/build.sh" modules tools programs test-modules
		ko=$BUILD/kmod/unionblk.ko nth=$BUILD/kmod-test/dm_nth.ko
		;;
	*)
		"$TOP/scripts/build.sh" modules-kunit-x86_64 tools programs test-modules-kunit-x86_64
		ko=$BUILD/kmod-kunit-x86_64/unionblk.ko nth=$BUILD/kmod-test-kunit-x86_64/dm_nth.ko
		;;
	esac
	guest=(-k "$KERNEL" -f "$TOP/tests/vm:tests" -f "$TOP/tests/crash/guest:crash" -f "$TOP/scripts/kernel-complaints.txt"
		-f "$BUILD/programs:programs" -f "$ko" -f "$nth" -f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl")
}

# crash_guest NAME SECONDS [OPTION OF vm.sh]... -- COMMAND...: prints what the
# guest reports, in KTAP.
crash_guest() {
	local name=$1 limit=$2
	shift 2
	"$TOP/scripts/vm.sh" "${guest[@]}" -n "crash-$name" -t "$limit" "$@"
}
