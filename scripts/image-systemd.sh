#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes the root image of a small Debian system under systemd, on ext4, for
# tests/poweroff. Runs inside the build root; prints the image's path.
. "$(dirname "$0")/lib.sh"
. "$TOP/scripts/series.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/image-systemd.sh "$@"

out=$CACHE/image-systemd-$(key "$SUITE" "$TOP/scripts/image-systemd.sh").img

make_image() {
	local tree=$out.tree
	rm -rf "$tree"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,udev,kmod,mount,e2fsprogs \
		"$SUITE" "$tree" "$(mirror)"
	rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/* \
		"$tree"/usr/share/{doc,man,info,locale}/* "${tree:?}"/dev/*
	# The file is empty, so that a first boot asks nothing.
	: >"$tree/etc/machine-id"
	echo guest >"$tree/etc/hostname"
	rm -f "$out.part"
	truncate -s 640M "$out.part"
	mke2fs -q -t ext4 -d "$tree" -L guest -m 0 -E lazy_itable_init=0,lazy_journal_init=0 "$out.part"
	rm -rf "$tree"
	mv "$out.part" "$out"
}

[ -s "$out" ] || stage "root image: Debian with systemd on ext4" make_image >&2
printf '%s\n' "$out"
