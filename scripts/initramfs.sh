#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes the initial RAM disk that every guest boots into: busybox, the programs
# that the tests call with their libraries, and the stock kernel's modules,
# unpacked. It does not contain what changes with each build (module, tool,
# tests); vm.sh appends that as a second archive. Runs inside the build root;
# prints the path.
#   scripts/initramfs.sh stock|kunit|um
. "$(dirname "$0")/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/initramfs.sh "$@"

flavour=${1:?stock, kunit or um}
programs=(
	bash fio split mke2fs e2fsck dumpe2fs tune2fs debugfs blkdiscard blockdev lsblk
	dmsetup cmp sha256sum dd timeout stat mkswap swapon swapoff ionice
	mkfs.xfs xfs_repair mkfs.btrfs btrfs udevadm qemu-img
)
# All modules that a storage test may need; their dependencies follow.
modules=(
	virtio_blk null_blk brd loop overlay nbd
	dm-mod dm-snapshot dm-thin-pool dm-clone dm-log-writes dm-flakey dm-zero dm-delay dm-verity
	xfs btrfs mq-deadline kyber-iosched bfq scsi_debug sd_mod
)
case $flavour in
stock) kernel=$("$TOP/scripts/kernel.sh") ;;
kunit | um) kernel=none modules=() ;;
*) die "no flavour $flavour: stock, kunit or um" ;;
esac

init=$TOP/scripts/guest-init
versions=$(dpkg-query -W -f '${Package} ${Version}\n' | sha256sum)
out=$CACHE/initramfs-$flavour-$(key "$kernel" "$TOP/scripts/initramfs.sh" "$init" "$versions").cpio

# Adds one program and the libraries that it loads, at the paths that it
# expects.
add_program() {
	local tree=$1 file lib
	file=$(command -v "$2") || die "the build root has no $2"
	install -D "$(readlink -f "$file")" "$tree$(readlink -f "$(dirname "$file")")/$2"
	while read -r lib; do
		[ -e "$tree/usr${lib#/usr}" ] || install -D "$(readlink -f "$lib")" "$tree/usr${lib#/usr}"
	done < <(ldd "$file" | grep -oE '/[^ ]+ \(0x' | cut -d' ' -f1)
}

# Adds modules by name and all that modules.dep says they need. They are
# decompressed here, because the guest's processor is emulated and this one is
# not.
add_modules() {
	local tree=$1 release from to all name path
	release=$(cat "$kernel/release")
	from=$kernel/stock/usr/lib/modules/$release
	to=$tree/usr/lib/modules/$release
	all=$(mktemp -d)
	mkdir -p "$all/lib/modules/$release" "$to"
	ln -s "$from/kernel" "$all/lib/modules/$release/kernel"
	cp "$from"/modules.{order,builtin,builtin.modinfo} "$all/lib/modules/$release/"
	depmod -b "$all" "$release"
	for name in "${modules[@]}"; do
		modprobe -d "$all" -S "$release" -D "$name" 2>/dev/null || true
	done | awk '$1 == "insmod" { print $2 }' | sort -u >"$all/list"
	[ -s "$all/list" ] || die "modprobe named no module at all"
	while read -r path; do
		path=${path#"$all"/lib/modules/"$release"/}
		mkdir -p "$to/$(dirname "$path")"
		xz -dc "$from/$path" >"$to/${path%.xz}"
	done <"$all/list"
	cp "$from"/modules.{order,builtin,builtin.modinfo} "$to/"
	depmod -b "$tree/usr" "$release"
	rm -r "$all"
}

make_archive() {
	local tree applet program
	tree=$(mktemp -d)
	mkdir -p "$tree"/usr/{bin,sbin,lib,lib64} "$tree"/{dev,proc,sys,tmp,run,mnt,root,etc,vm}
	ln -s usr/bin usr/sbin usr/lib usr/lib64 "$tree/"
	for program in "${programs[@]}"; do add_program "$tree" "$program"; done
	cp "$(command -v busybox)" "$tree/usr/bin/busybox"
	while read -r applet; do
		[ -e "$tree/usr/bin/$applet" ] || [ -e "$tree/usr/sbin/$applet" ] ||
			ln -s busybox "$tree/usr/bin/$applet"
	done < <(busybox --list)
	# The daemon is the same program under another name.
	install -d "$tree/usr/lib/systemd"
	ln -s ../../bin/udevadm "$tree/usr/lib/systemd/systemd-udevd"
	# Debian's rules for disks. A test that needs a daemon starts one.
	install -D -m 644 -t "$tree/usr/lib/udev/rules.d" \
		/usr/lib/udev/rules.d/{60-block,60-persistent-storage,99-systemd}.rules
	ln -sf /proc/self/mounts "$tree/etc/mtab"
	printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$tree/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
	[ ${#modules[@]} = 0 ] || add_modules "$tree"
	install -m 755 "$init" "$tree/init"
	(cd "$tree" && find . | LC_ALL=C sort | cpio --quiet --reproducible -H newc -o -R 0:0) >"$out.part"
	rm -r "$tree"
	mv "$out.part" "$out"
}

# If two scripts need the archive at once, the second one waits and finds it made.
exec 9>"$CACHE/initramfs-$flavour.lock"
flock 9
[ -s "$out" ] || stage "guest's initramfs ($flavour)" make_archive >&2
printf '%s\n' "$out"
