#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Device tests in guests. The tests of the group unionblk share two boots of the stock
# kernel, at the same time (JOBS=1: one); those of another group share one.
#   tests/run-vm.sh [-g SUBJECT | GROUP | GROUP/NNN]...    default: unionblk
#   tests/run-vm.sh --list          the tests, their subjects and descriptions; also "list"
#   tests/run-vm.sh -g discard      the tests of unionblk that have this subject
#   tests/run-vm.sh selftest        tests of the runner, of which four must fail
#   KERNEL=kunit tests/run-vm.sh    on the kernel with lockdep and kmemleak
#   ICOUNT=1 tests/run-vm.sh unionblk/123    a time is a number of instructions; one processor
#   tests/run-vm.sh scale           in a guest of 3 GiB with large, sparse disks
#   tests/run-vm.sh memory          in a guest of little memory, with two disks
#   SOAK_SECONDS=7200 tests/run-vm.sh soak    the same guest, for so long
# Each guest reports in KTAP; build/log/vm-NAME.out has it, and vm-NAME-2.out that of the second.
. "$(dirname "$0")/../scripts/lib.sh"

# Print what a test says of itself.
subjects() { sed -n 's/^# Subjects: //p' "$TOP/tests/vm/$1"; }
description() { sed -n 's/^DESCRIPTION="\(.*\)"$/\1/p' "$TOP/tests/vm/$1"; }

# Prints the tests of a group.
tests_of() { (cd "$TOP/tests/vm" && printf '%s\n' "$1"/[0-9][0-9][0-9]); }

list() {
	local group test
	for group in unionblk memory scale soak selftest; do
		for test in $(tests_of $group); do
			printf '%s\t%s\t%s\n' "$test" "$(subjects "$test")" "$(description "$test")"
		done
	done | columns
}

# Aligns what a tab separates; the last column needs no width.
columns() {
	awk -F '\t' '
		{ rows[NR] = $0; for (i = 1; i < NF; i++) if (length($i) > width[i]) width[i] = length($i) }
		END {
			for (r = 1; r <= NR; r++) {
				n = split(rows[r], cell)
				for (i = 1; i < n; i++) printf "%-" width[i] "s  ", cell[i]
				print cell[n]
			}
		}'
}

# Collects the tests that the arguments name, in $tests.
tests=()
choose() {
	local test found
	while [ $# -gt 0 ]; do
		found=${#tests[@]}
		if [ "$1" = -g ] && [ $# -gt 1 ]; then
			shift
			for test in $(tests_of unionblk); do
				[[ " $(subjects "$test") " != *" $1 "* ]] || tests+=("$test")
			done
			[ "$found" != ${#tests[@]} ] || die "no test has the subject $1: see tests/run-vm.sh --list"
		elif [ -f "$TOP/tests/vm/$1.out" ]; then
			tests+=("$1")
		elif [ -f "$TOP/tests/vm/$1/001" ]; then
			mapfile -t -O "$found" tests < <(tests_of "$1")
		else
			die "no test $1: see tests/run-vm.sh --list"
		fi
		shift
	done
}

kernel=${KERNEL:-stock}
case $kernel in stock | kunit) ;; *) die "no kernel $kernel: KERNEL is stock or kunit" ;; esac
case "$*" in list | --list) list; exit ;; esac
[ $# -gt 0 ] || set -- unionblk
choose "$@"
# A test may have several of the subjects.
mapfile -t tests < <(printf '%s\n' "${tests[@]}" | sort -u)
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/run-vm.sh "$@"

# Each group but selftest and unionblk has a guest that only its tests fit.
groups=$(printf '%s\n' "${tests[@]%%/*}" | sort -u)
case $groups in
*selftest*unionblk*) groups=unionblk ;;
*[[:space:]]*) die "these tests need different guests: ${groups//[[:space:]]/, }" ;;
esac

limit=1800
name=tests-$kernel guests=1
options=(-k "$kernel" -u
	-f "$TOP/tests/vm:tests" -f "$TOP/tools/udev:udev" -f "$TOP/scripts/kernel-complaints.txt")
case $groups in
scale)
	# A root of 10 GiB, and room for the leaves of all tests. Almost nothing of it is written.
	for disk in root:10G leaf:220G; do
		rm -f "$BUILD/scale-${disk%:*}.img"
		truncate -s "${disk#*:}" "$BUILD/scale-${disk%:*}.img"
		options+=(-d "$BUILD/scale-${disk%:*}.img")
	done
	options+=(-m 3072)
	name=scale-$kernel
	;;
memory | soak)
	size=2G
	[ "$groups" != soak ] || size=512M limit=$((${SOAK_SECONDS:-60} + 1200))
	for disk in root leaf; do
		rm -f "$BUILD/$groups-$disk.img"
		truncate -s $size "$BUILD/$groups-$disk.img"
		options+=(-d "$BUILD/$groups-$disk.img")
	done
	options+=(-m 512)
	name=$groups-$kernel
	;;
*)
	options+=(-m 1536)
	# An emulated guest leaves a processor of the host idle most of the time. A second
	# boot is worth its time from some tests on.
	[ ${#tests[@]} -lt 8 ] || guests=$(((${JOBS:-2} > 1) + 1))
	;;
esac
# The golden leaves and layers of tests/data, packed so that the guest can unpack them, and their root, in
# which each sector begins with its number.
golden=$BUILD/golden
mkdir -p "$golden"
for file in "$TOP"/tests/data/*.zst; do
	zstd -q -dc "$file" | gzip -1n >"$golden/$(basename "$file" .zst).gz"
done
python3 -c 'import sys
for n in range(32768): sys.stdout.buffer.write(n.to_bytes(8, "little") + bytes(504))' | gzip -1n >"$golden/root.gz"
options+=(-f "$golden:golden" -f "$TOP/tests/data:data")
"$TOP/scripts/build.sh" programs
options+=(-f "$BUILD/programs:programs")
if [ "$groups" != selftest ]; then
	case $kernel in
	stock) suffix='' ;;
	kunit) suffix=-kunit-x86_64; options+=(-a kmemleak=on) ;;
	esac
	"$TOP/scripts/build.sh" "modules$suffix" "test-modules$suffix" tools
	options+=(-f "$BUILD/kmod$suffix/unionblk.ko" -f "$BUILD/kmod-test$suffix/blk_again.ko" -f "$BUILD/kmod-test$suffix/dm_nth.ko" -f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl")
fi

[ -z "${ICOUNT:-}" ] || { options+=(-i); guests=1 limit=7200 name=$name-icount; }

# Made once, before two guests want it.
"$TOP/scripts/initramfs.sh" "$kernel" >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# guest N TEST...: runs the tests in guest N, and keeps its status.
guest() {
	local code=0 log=$name
	[ "$1" = 1 ] || log=$name-$1
	"$TOP/scripts/vm.sh" "${options[@]}" -n "$log" -t $limit -- \
		env SOAK_SECONDS="${SOAK_SECONDS:-60}" sh tests/check "${@:2}" || code=$?
	echo "$code" >"$work/code.$1"
}

# The tests that lie next to each other take about as long, so each guest gets every other one.
share() { printf '%s\n' "${tests[@]}" | awk -v n="$1" -v of=$guests 'NR % of == n - 1'; }
mkfifo "$work/1" "$work/2"
for ((n = 1; n <= guests; n++)); do
	mapfile -t mine < <(share $n)
	guest $n "${mine[@]}" >"$work/$n" &
done
report=0
mapfile -t fifos < <(seq -f "$work/%.0f" $guests)
python3 -B "$TOP/tests/vm/report.py" "${fifos[@]}" || report=$?
wait
# If a guest has died, its status says more than the report.
while read -r code; do
	[ "$code" -le 1 ] || exit "$code"
done < <(cat "$work"/code.*)
exit $report
