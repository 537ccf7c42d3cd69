#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Switches off a system under systemd while it has unions on images. Then the
# file systems that hold the images must be clean, and the next boot must find
# everything.
#   tests/poweroff/run.sh                  must succeed
#   tests/poweroff/run.sh --without-unit   the same without our unit: must fail
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
truncate -s 256M "$dir/vdb"
mke2fs -q -t ext4 "$dir/vdb"

boot() {
	local start=$SECONDS code=0
	"$TOP/scripts/vm.sh" -n "poweroff-$1" -t 240 -a rdinit=/vm/guest/init \
		-d "$dir/vda" -d "$dir/vdb" -f "$TOP/tests/poweroff/guest:guest" \
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
}

boot first
clean first
boot second
clean second
[ $failed = 0 ] || exit 1
rm -r "$dir"
