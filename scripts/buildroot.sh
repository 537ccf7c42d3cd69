#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes the build root: a Debian tree with the compiler that built the kernel,
# and QEMU. Prints its path. Installs nothing on the machine itself except
# debootstrap.
. "$(dirname "$0")/lib.sh"
. "$TOP/scripts/series.sh"
need_root buildroot.sh

packages=$(sed '/^#/d' "$TOP/scripts/root-packages.txt" | tr '\n' ' ')
root=$CACHE/root-$(key "$SUITE" "$packages")

make_root() {
	local part=$root.part m
	m=$(mirror)
	rm -rf "$part"
	if ! command -v debootstrap >/dev/null; then
		apt-get update
		DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap
	fi
	# Debian 12's debootstrap knows trixie only as a link to its sid script.
	debootstrap --variant=minbase "$SUITE" "$part" "$m"
	printf 'deb %s %s main\ndeb %s %s-backports main\n' "$m" "$SUITE" "$m" "$SUITE" >"$part/etc/apt/sources.list"
	printf '#!/bin/sh\nexit 101\n' >"$part/usr/sbin/policy-rc.d"
	chmod +x "$part/usr/sbin/policy-rc.d"
	mkdir -p "$part/src" "$part/cache"
	UNIONBLK_ROOT=$part "$TOP/scripts/in-root.sh" apt-get update
	# shellcheck disable=SC2086 # a list of words
	UNIONBLK_ROOT=$part "$TOP/scripts/in-root.sh" apt-get install -y --no-install-recommends $packages
	UNIONBLK_ROOT=$part "$TOP/scripts/in-root.sh" apt-get clean
	mv "$part" "$root"
}

if [ ! -d "$root" ]; then
	stage "build root: $SUITE by debootstrap" make_root >&2
fi
printf '%s\n' "$root"
