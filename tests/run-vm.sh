#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Device tests in a guest. The tests of a group share one boot of the stock kernel.
#   tests/run-vm.sh [unionblk | unionblk/003 | selftest]...
#   KERNEL=kunit tests/run-vm.sh    on the kernel with lockdep and kmemleak
#   tests/run-vm.sh scale           in a guest of 3 GiB with large, sparse disks
#   tests/run-vm.sh memory          in a guest of little memory, with two disks
#   SOAK_SECONDS=7200 tests/run-vm.sh soak    the same guest, for so long
. "$(dirname "$0")/../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/run-vm.sh "$@"

kernel=${KERNEL:-stock} limit=1800
options=(-k "$kernel" -n "tests-$kernel" -u
	-f "$TOP/tests/vm:tests" -f "$TOP/tools/udev:udev" -f "$TOP/scripts/kernel-complaints.txt")
case "$*" in
*scale*)
	# A root of 10 GiB, and room for the leaves of all tests. Almost nothing of it is written.
	for disk in root:10G leaf:220G; do
		rm -f "$BUILD/scale-${disk%:*}.img"
		truncate -s "${disk#*:}" "$BUILD/scale-${disk%:*}.img"
		options+=(-d "$BUILD/scale-${disk%:*}.img")
	done
	options+=(-m 3072 -n "scale-$kernel")
	;;
*memory* | *soak*)
	group=${1%%/*} size=2G
	[ "$group" != soak ] || size=512M limit=$((${SOAK_SECONDS:-60} + 1200))
	for disk in root leaf; do
		rm -f "$BUILD/$group-$disk.img"
		truncate -s $size "$BUILD/$group-$disk.img"
		options+=(-d "$BUILD/$group-$disk.img")
	done
	options+=(-m 512 -n "$group-$kernel")
	;;
*) options+=(-m 1536) ;;
esac
# The golden leaves of tests/data, packed so that the guest can unpack them, and their root, in
# which each sector begins with its number.
golden=$BUILD/golden
mkdir -p "$golden"
for leaf in "$TOP"/tests/data/*.leaf.zst; do
	zstd -q -dc "$leaf" | gzip -1n >"$golden/$(basename "$leaf" .zst).gz"
done
python3 -c 'import sys
for n in range(32768): sys.stdout.buffer.write(n.to_bytes(8, "little") + bytes(504))' | gzip -1n >"$golden/root.gz"
options+=(-f "$golden:golden" -f "$TOP/tests/data:data")
"$TOP/scripts/build.sh" programs
options+=(-f "$BUILD/programs:programs")
if [ "$*" != selftest ]; then
	case $kernel in
	stock) suffix='' ;;
	kunit) suffix=-kunit-x86_64; options+=(-a kmemleak=on) ;;
	*) die "no kernel $kernel: stock or kunit" ;;
	esac
	"$TOP/scripts/build.sh" "modules$suffix" "test-modules$suffix" tools
	options+=(-f "$BUILD/kmod$suffix/unionblk.ko" -f "$BUILD/kmod-test$suffix/blk_again.ko" -f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl")
fi
exec "$TOP/scripts/vm.sh" "${options[@]}" -t $limit -- env SOAK_SECONDS="${SOAK_SECONDS:-60}" sh tests/check "$@"
