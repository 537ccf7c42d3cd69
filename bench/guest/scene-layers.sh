# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# The scene of an attach on 128 layers: frozen leaves and sealed layers, on disks, and as images on
# loop devices. Sourced by scenes.sh, after layers.

LAYERS=128
# shellcheck disable=SC2034 # layers reads them
HEAD_MIB=32 UNIT_MIB=32

# attach_thrice NAME COMMAND...: the command attaches a union, which nothing has in use.
attach_thrice() {
	local name=$1 union
	shift
	for _ in 1 2 3; do
		timed "$@"
		figure layers "$name" attach_s "$SECS"
		union=$(grep -o '/dev/unionblk[0-9]*' /tmp/timed.out)
		[ "$(cat "/sys/block/${union#/dev/}/union/layers")" = $LAYERS ] || die "not $LAYERS layers"
		figure layers "$name" map_kib $(($(ubctl status "$union" --json | json stack_bytes) / 1024))
		timed ubctl remove "$union"
		figure layers "$name" detach_s "$SECS"
	done
}

# leaf_on NAME LAYER...: a new leaf on layers, and its attach.
leaf_on() {
	local name=$1 words=() layer
	shift
	for layer; do words+=(--layer "$layer"); done
	ubctl format --force --root /dev/broot "${words[@]}" /dev/measured >/dev/null || die "format on $name"
	attach_thrice "$name" ubctl create --root /dev/broot --leaf /dev/measured
}

scene_layers() {
	local n disks=() frozen=() sealed=()
	# shellcheck disable=SC2034 # for layers
	SIZE_MIB=128
	union_begin
	union_make $LAYERS
	union_gone
	ubctl remove "$GROWS" || die "remove"
	mkdir -p /mnt/layers
	mount -t tmpfs -o size=2g tmpfs /mnt/layers
	for n in $(seq 1 $LAYERS); do
		ubctl seal "/dev/layer$n" "/mnt/layers/$n.sealed" >/dev/null || die "seal $n"
		/usr/bin/dd if="/dev/layer$n" of="/mnt/layers/$n.leaf" bs=64K conv=sparse 2>/dev/null || die "copy $n"
		null_configure_big "sealed$n" 64
		dd if="/mnt/layers/$n.sealed" of="/dev/sealed$n" bs=1M oflag=direct conv=sync 2>/dev/null || die "copy $n"
		disks+=("/dev/sealed$n") frozen+=("/mnt/layers/$n.leaf") sealed+=("/mnt/layers/$n.sealed")
	done
	attach_thrice frozen ubctl create --root /dev/broot --leaf /dev/measured
	leaf_on sealed "${disks[@]}"
	leaf_on frozen-image "${frozen[@]}"
	leaf_on sealed-image "${sealed[@]}"
	umount /mnt/layers
	null_all_gone layer
	null_all_gone sealed
	null_gone broot measured lraw
}
