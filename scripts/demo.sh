#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs the project's main task on real input: two unions of one Debian root
# image on the stock kernel, changed independently, powered off, attached again
# and verified; then one is frozen while it is used, and two more lie on the
# layer. Fails if a claim does not hold.
. "$(dirname "$0")/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/demo.sh "$@"

leaf_mib=96
leaves="leaf-a leaf-b leaf-a2 leaf-c leaf-d"
dir=$BUILD/demo
began=$SECONDS
mkdir -p "$dir"

"$TOP/scripts/build.sh" modules tools programs
kernel=$("$TOP/scripts/kernel.sh")
image=$("$TOP/scripts/image.sh")

blank_leaves() {
	local f
	cp --sparse=always "$image/root.img" "$dir/root.img"
	for f in $leaves; do
		rm -f "$dir/$f.img"
		truncate -s "${leaf_mib}M" "$dir/$f.img"
	done
}
root_sum() { sha256sum <"$dir/root.img" | cut -d' ' -f1; }

boot() {
	local start=$SECONDS leaf disks=()
	for leaf in $leaves; do
		disks+=(-d "$dir/$leaf.img")
	done
	# The guest could write to the root; only the driver keeps it unchanged.
	"$TOP/scripts/vm.sh" -n "demo-$1" -m 1024 -t 240 \
		-d "$dir/root.img" "${disks[@]}" \
		-f "$BUILD/kmod/unionblk.ko" -f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl" \
		-f "$BUILD/programs/json" \
		-f "$TOP/scripts/demo:demo" -f "$TOP/scripts/kernel-complaints.txt" -- sh "demo/$1" ||
		die "the $1 was not as claimed: see above, and $BUILD/log/vm-demo-$1.console"
	printf '\n== the %s took %d s\n' "$1" $((SECONDS - start))
}

stage "blank leaves of $leaf_mib MiB and a copy of the root" blank_leaves
say "   stock kernel $(cat "$kernel/release"), emulated; root: Debian on ext4, $(($(stat -c %s "$dir/root.img") >> 20)) MiB"
before=$(root_sum)
[ "$before" = "$(cat "$image/root.sha256")" ] ||
	die "the cached root image $image is not what was made: remove it and run again"
say "   root image before: sha256 $before"

boot first-boot
boot second-boot
boot layers

after=$(root_sum)
say ""
say "-- The root image"
say "   before  sha256 $before"
say "   after   sha256 $after"
[ "$before" = "$after" ] || die "the root image has changed"
say "   unchanged by three boots and four unions"
say ""
say "-- How little each leaf holds"
for leaf in $leaves; do
	printf '   %s: %d KiB of a %d MiB leaf, for a root of %d MiB\n' "$leaf" \
		"$(du -k "$dir/$leaf.img" | cut -f1)" "$leaf_mib" $(($(stat -c %s "$dir/root.img") >> 20))
done
rm -r "$dir"
say ""
say "demo: all as claimed, $((SECONDS - began)) s"
