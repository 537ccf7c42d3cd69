#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Switches off a system under systemd while it has unions: those of /etc/ubtab, on
# which fstab has file systems, and others on images. Then the leaves and the file
# systems that hold images must be clean, and the next boot must find everything.
#   tests/poweroff/run.sh                  must succeed
#   tests/poweroff/run.sh --without-unit   the same without our units: must fail
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/poweroff/run.sh "$@"

dir=$BUILD/poweroff
ko=$BUILD/kmod/unionblk.ko ubctl=$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl
failed=0
"$TOP/scripts/build.sh" modules tools
image=$("$TOP/scripts/image-systemd.sh")
rm -rf "$dir"
mkdir -p "$dir"

# This installs what make install installs.
"$TOP/scripts/install.sh" "$ko" "$ubctl" /usr/local "$dir/tree" >/dev/null
[ "${1:-}" != --without-unit ] || rm -r "$dir/tree/usr/local/lib/systemd"
tar -c -f "$dir/installed.tar" -C "$dir/tree" --owner=0 --group=0 usr

cp --sparse=always "$image" "$dir/vda"

# The unions of /etc/ubtab: their root and one leaf are images on /dev/vdb, and the
# other leaf is /dev/vdc.
mkdir "$dir/root" "$dir/srv"
echo "of the root" >"$dir/root/old"
mke2fs -q -t ext4 -d "$dir/root" "$dir/srv/tab.root" 32M
truncate -s 32M "$dir/srv/tab.leaf" "$dir/vdc"
"$ubctl" format --root "$dir/srv/tab.root" --name file "$dir/srv/tab.leaf" >/dev/null
"$ubctl" format --root "$dir/srv/tab.root" --name disk "$dir/vdc" >/dev/null
truncate -s 256M "$dir/vdb"
mke2fs -q -t ext4 -d "$dir/srv" "$dir/vdb"

boot() {
	local start=$SECONDS code=0
	"$TOP/scripts/vm.sh" -n "poweroff-$1" -t 240 -a rdinit=/vm/guest/init \
		-d "$dir/vda" -d "$dir/vdb" -d "$dir/vdc" -f "$TOP/tests/poweroff/guest:guest" \
		-f "$dir/installed.tar" -f "$ko" -f "$TOP/scripts/kernel-complaints.txt" \
		-- sh "guest/$1" | sed 's/^/   /' || code=${PIPESTATUS[0]}
	[ "$code" = 0 ] || { say "FAIL: the $1 boot: status $code"; failed=1; }
	say "   the $1 boot took $((SECONDS - start)) s"
}
clean() {
	local disk
	for disk in vda vdb; do
		if dumpe2fs -h "$dir/$disk" 2>/dev/null | grep -q needs_recovery; then
			say "FAIL: needs_recovery on $disk after the $1 boot"
			failed=1
		fi
	done
	debugfs -R "dump /tab.leaf $dir/tab.leaf" "$dir/vdb" 2>/dev/null
	for disk in tab.leaf vdc; do
		if ! "$ubctl" check --root "$dir/srv/tab.root" "$dir/$disk" >"$dir/check" ||
			grep "was not detached" "$dir/check"; then
			say "FAIL: $disk is not clean after the $1 boot"
			cat "$dir/check"
			failed=1
		fi
	done
}

boot first
clean first
boot second
clean second
[ $failed = 0 ] || exit 1
rm -r "$dir"
