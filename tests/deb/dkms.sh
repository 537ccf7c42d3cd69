#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Installs unionblk-dkms by apt from build/deb on a Debian system without the kernel's source,
# with it, and removes it. The system is the build root with its changes in an overlay, which
# is thrown away, because an emulated guest is too slow for the build. The module that DKMS
# has built is left as build/deb-test/dkms/unionblk.ko, for the guest.
. "$(dirname "$0")/../../scripts/lib.sh"
. "$TOP/scripts/series.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/deb/dkms.sh "$@"

dir=$BUILD/deb-test/dkms
release=$(cat "$("$TOP/scripts/kernel.sh")/release")
if [ -z "${DKMS_NAMESPACE:-}" ]; then
	rm -rf "$dir"
	mkdir -p "$dir"/{upper,work,root}
	code=0
	DKMS_NAMESPACE=1 unshare --mount --propagation private "$0" || code=$?
	rm -rf "$dir"/{upper,work,root}
	exit $code
fi

mount -t overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" overlay "$dir/root"
mount -t proc proc "$dir/root/proc"
mount --rbind /dev "$dir/root/dev"
mount -t tmpfs tmpfs "$dir/root/tmp"
mkdir -p "$dir/root/repo"
mount --bind "$BUILD/deb" "$dir/root/repo"
echo "deb [trusted=yes] file:/repo ./" >"$dir/root/etc/apt/sources.list.d/repo.list"
cp "$TOP/tests/deb/guest/dkms" "$dir/root/root/dkms"
chroot "$dir/root" sh /root/dkms "$release" "$SERIES"
cp "$dir/root/root/unionblk.ko" "$dir/"
