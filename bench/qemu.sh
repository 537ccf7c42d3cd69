#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Fetches qemu-utils and puts qemu-nbd, with the libraries that it loads, into one directory, so that
# a guest can run it. Makes a chain of qcow2 images, which hold what layers hold (guest/layers).
# Runs inside the build root; prints the path of a directory with
#   qemu/      qemu-nbd and lib/
#   qcow2/     images 1 to the last number, each over the one before it, and measured-N over N
#   bench/qemu.sh HEAD-MIB UNIT-MIB NUMBER...
. "$(dirname "$0")/../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" bench/qemu.sh "$@"

head=$1 unit=$2
shift 2
numbers=("$@")
work=$BUILD/bench/qemu

fetch() {
	local lib
	rm -rf "$work"
	mkdir -p "$work/deb" "$work/qemu/lib" "$work/qcow2"
	apt-get update
	(cd "$work/deb" && apt-get download qemu-utils)
	dpkg-deb -x "$work"/deb/*.deb "$work/deb"
	cp "$work/deb/usr/bin/qemu-nbd" "$work/qemu/"
	ldd "$work/qemu/qemu-nbd" >"$work/ldd"
	! grep 'not found' "$work/ldd" || die "the build root lacks a library of qemu-nbd"
	while read -r lib; do cp -L "$lib" "$work/qemu/lib/"; done < <(grep -oE '/[^ ]+ \(0x' "$work/ldd" | cut -d' ' -f1)
	ln -s "$(basename "$(grep -oE '/[^ ]*ld-linux[^ ]*' "$work/ldd")")" "$work/qemu/lib/ld.so"
}

# The lower image of layer 1 is raw, and made in the guest.
images() {
	local n below=bottom format=raw last=${numbers[-1]} size=$((head + 3 * unit))
	local img=$work/deb/usr/bin/qemu-img io=$work/deb/usr/bin/qemu-io
	cd "$work/qcow2" || die "no $work/qcow2"
	truncate -s "${size}M" bottom
	for ((n = 1; n <= last; n++)); do
		"$img" create -q -f qcow2 -b "$below" -F "$format" "$n" "${size}M"
		if [ "$n" = 1 ]; then
			"$io" -f qcow2 -c "write -P 2 $((head + unit))M ${unit}M" "$n"
		else
			"$io" -f qcow2 -c "write -P 3 $((2 * 1048576 + n * 97 % 256 * 65536)) 64k" "$n"
		fi
		below=$n format=qcow2
	done
	for n in "${numbers[@]}"; do
		[ "$n" = 0 ] || "$img" create -q -f qcow2 -b "$n" -F qcow2 "measured-$n" "${size}M"
	done
	rm bottom
}

stage "qemu-nbd: fetch" fetch >&2
stage "qcow2 images: make" images >&2
printf '%s\n' "$work"
