#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes the root image of the demo: a Debian system with its libc and programs
# on ext4. Its /opt holds a small package that the demo installs. Runs inside
# the build root; prints a directory with root.img and root.sha256.
. "$(dirname "$0")/lib.sh"
. "$TOP/scripts/series.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/image.sh "$@"

size_mib=512
uuid=5d1c2a60-7c5e-4d2b-9b7e-0e9f6a1b4c3d
out=$CACHE/image-$(key "$SUITE" "$TOP/scripts/image.sh")

# Removes what an image that many machines boot from does not need.
strip_tree() {
	local t=${1:?}
	rm -rf "$t"/var/lib/apt/lists/* "$t"/var/cache/apt/* "$t"/var/log/* "$t"/var/cache/debconf/*-old \
		"$t"/usr/share/{doc,man,info,locale,i18n}/* "$t"/usr/lib/x86_64-linux-gnu/gconv \
		"${t:?}"/tmp/* "${t:?}"/dev/* "$t"/etc/machine-id
	: >"$t/etc/machine-id"
	echo golden >"$t/etc/hostname"
}

# Makes the package that the demo installs in one union only.
make_package() {
	local d
	d=$(mktemp -d)
	mkdir -p "$d/DEBIAN" "$d/usr/bin"
	cat >"$d/DEBIAN/control" <<-'END'
		Package: leaf-greeting
		Version: 1.0
		Architecture: all
		Maintainer: unionblk <root@localhost>
		Description: prints one line, to be installed in a union
	END
	cat >"$d/usr/bin/leaf-greeting" <<-'END'
		#!/bin/sh
		echo "leaf-greeting: installed on $(cat /etc/hostname), libc $(ldd --version 2>&1 | sed -n '1s/.* //p')"
	END
	chmod 755 "$d/usr/bin/leaf-greeting"
	dpkg-deb --root-owner-group --build "$d" "$1/opt/leaf-greeting.deb"
	rm -r "$d"
}

# The UUID, hash seed and time are fixed, so that the same tree gives the same
# file system.
make_image() {
	local part=$out.part tree=$out.part/tree
	rm -rf "$part"
	mkdir -p "$part"
	debootstrap --variant=minbase "$SUITE" "$tree" "$(mirror)"
	strip_tree "$tree"
	make_package "$tree"
	truncate -s "${size_mib}M" "$part/root.img"
	E2FSPROGS_FAKE_TIME=1735689600 mke2fs -q -t ext4 -d "$tree" -U "$uuid" -L golden \
		-m 0 -E "hash_seed=$uuid,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" "$part/root.img"
	e2fsck -fn "$part/root.img"
	rm -rf "$tree"
	sha256sum <"$part/root.img" | cut -d' ' -f1 >"$part/root.sha256"
	mv "$part" "$out"
}

[ -d "$out" ] || stage "root image: a Debian system on ext4" make_image >&2
printf '%s\n' "$out"
