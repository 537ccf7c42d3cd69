#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Scenes of use, in the guest. Each line that begins with "scene" is a figure:
#   scene NAME DEVICE WHAT VALUE
# /dev/ubda is the root image of the demo.
PATH=/vm:$PATH
# Parameters of the devices.
# shellcheck disable=SC2034
CPUS=1 SIZE_MIB=512 CACHE=fua
# shellcheck disable=SC1091
. /vm/guest/devices
# shellcheck disable=SC1091
. /vm/guest/layers
# shellcheck disable=SC1091
. /vm/guest/scene-layers.sh

figure() { echo "scene $*"; }
micros() { echo "${EPOCHREALTIME/./}"; }
# timed COMMAND...: measures how long it takes, in $SECS
timed() {
	local t
	t=$(micros)
	"$@" >/tmp/timed.out 2>&1 || die "$* ($(tail -n 3 /tmp/timed.out))"
	SECS=$(awk -v a="$t" -v b="$(micros)" 'BEGIN { printf "%.4f", (b - a) / 1e6 }')
}
# Prints the memory that the kernel itself holds when nothing is cached, in KiB.
used_kib() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
	sleep 0.3
	awk '/^MemTotal|^MemFree/ { v[++n] = $2 } END { print v[1] - v[2] }' /proc/meminfo
}
written_kib() { awk '{ print $7 / 2 }' "/sys/block/$1/stat"; }

# --- the work of dpkg and dd, on ext4 ---

big_file() { dd if=/dev/zero of="$1/big" bs=64k count=1024 conv=fsync; }
rewrite() { dd if=/dev/zero of="$1/big" bs=64k count=1024 conv=fsync,notrunc; }
# Called by its path, because busybox would use its applet.
install_package() { chroot "$1" /usr/bin/dpkg --force-all -i /mnt/work.deb; }
remove_package() { chroot "$1" /usr/bin/dpkg --purge leaf-work; }
all_read() { tar -C "$1" -cf - usr bin lib | wc -c; }

files_on() {
	local m=/mnt/$1
	mkdir -p "$m"
	mount -t ext4 "/dev/bench/$1" "$m" || die "mount $1"
	mount -t proc proc "$m/proc"
	cp /vm/work.deb "$m/mnt/"
	sync
	for what in install_package all_read remove_package big_file rewrite; do
		echo 3 >/proc/sys/vm/drop_caches
		timed "$what" "$m"
		figure files "$1" "$what" "$SECS"
	done
	umount "$m/proc" "$m" || die "umount $1"
}

scene_files() {
	for n in broot proot; do
		null_make $n 512
		dd if=/dev/ubda of=/dev/$n bs=1M oflag=direct 2>/dev/null || die "fill $n"
	done
	for d in $ALL; do null_make "l$d" "$(leaf_mib "$d")"; done
	for d in $APART; do null_make "m$d" 16; done
	for _ in 1 2 3; do
		set_cache
		up
		for d in raw linear; do dd if=/dev/ubda of=/dev/bench/$d bs=1M oflag=direct 2>/dev/null || die "fill $d"; done
		for d in $ALL; do files_on "$d"; done
	done
	down
	for d in $APART; do null_gone "m$d"; done
	for d in $ALL; do null_gone "l$d"; done
	null_gone broot proot
}

# --- four KiB of a file of 1 GiB ---

change() { dd if=/dev/zero of="$1/big" bs=4k seek=100000 count=1 conv=notrunc,fsync; }

scene_change() {
	local root
	for root in broot proot; do
		null_make $root 1280
		mke2fs -q -t ext4 /dev/$root
		mount -t ext4 /dev/$root /mnt
		dd if=/dev/zero of=/mnt/big bs=1M count=1024 conv=fsync 2>/dev/null || die "1 GiB"
		umount /mnt
	done
	# The upper layer must have room for the whole file.
	null_make lunionblk 64
	null_make lupper 1280
	mke2fs -q -t ext4 /dev/lupper
	ubctl create --root /dev/broot --leaf /dev/lunionblk --format --force >/dev/null || die "create"
	mkdir -p /mnt/union /mnt/lower /mnt/upper /mnt/over
	mount -t ext4 /dev/unionblk0 /mnt/union
	mount -t ext4 -o ro /dev/proot /mnt/lower
	mount -t ext4 /dev/lupper /mnt/upper
	mkdir /mnt/upper/u /mnt/upper/w
	mount -t overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper/u,workdir=/mnt/upper/w none /mnt/over || die "overlay"
	for d in unionblk:union overlayfs:over; do
		local disk=lunionblk before
		[ "${d#*:}" = union ] || disk=lupper
		sync
		before=$(written_kib $disk)
		timed change "/mnt/${d#*:}"
		figure change "${d%:*}" seconds "$SECS"
		sync
		figure change "${d%:*}" written_kib $(($(written_kib $disk) - before))
	done
	umount /mnt/over /mnt/upper /mnt/lower /mnt/union
	ubctl remove --all
	null_gone broot proot lunionblk lupper
}

# --- many on one root ---

# Pieces of 4 MiB of one disk, as dm-linear, made beforehand for all devices
# alike.
SLICE=8192
SLICES=()
make_slices() {
	null_configure_big store 4096
	for i in $(seq 1 1000); do
		dm_create "s$i" "0 $SLICE linear /dev/store $((i * SLICE))"
	done
	while read -r name disk; do SLICES[${name#s}]=$disk; done < <(
		dmsetup info -c --noheadings --separator ' ' -o name,blkdevname | grep '^s[0-9]'
	)
}
create_union() { ubctl create --root /dev/broot --leaf "/dev/${SLICES[$1]}" >/dev/null || die "union $1"; }
create_snap() { dm_create "n$1" "0 131072 snapshot /dev/proot /dev/${SLICES[$1]} P 8"; }
create_thin() {
	dmsetup message b-pool 0 "create_thin $1" || die "create_thin $1"
	dm_create "t$1" "0 131072 thin $POOL $1 /dev/proot"
}
forget_thin() { dmsetup remove --noudevrules --noudevsync "t$1" && dmsetup message b-pool 0 "delete $1"; }
forget_snap() { dmsetup remove --noudevrules --noudevsync "n$1"; }

# many DEVICE CREATE COUNT: measures how long they take, and how much memory
many() {
	local before t
	before=$(used_kib)
	t=$(micros)
	for i in $(seq 1 "$3"); do "$2" "$i"; done
	t=$(($(micros) - t))
	figure many "$1" "ms_each_of_$3" "$(awk -v t=$t -v n="$3" 'BEGIN { printf "%.2f", t / n / 1000 }')"
	figure many "$1" "kib_each_of_$3" "$(awk -v a="$before" -v b="$(used_kib)" -v n="$3" 'BEGIN { printf "%.1f", (b - a) / n }')"
}

scene_many() {
	for n in broot proot; do null_make $n 64; done
	make_slices
	null_make mthin64 16
	null_configure_big lthin64 1024
	dm_create b-pool "0 2097152 thin-pool /dev/mthin64 /dev/lthin64 128 0 1 skip_block_zeroing"
	POOL=$(dm_path b-pool)
	for i in $(seq 1 1000); do ubctl format --root /dev/broot "/dev/${SLICES[$i]}" >/dev/null || die "format $i"; done
	for n in 1 100 1000; do
		many unionblk create_union "$n"
		timed ubctl remove --all
		figure many unionblk "remove_ms_each_of_$n" "$(awk -v s="$SECS" -v n="$n" 'BEGIN { printf "%.2f", s * 1000 / n }')"
	done
	for i in $(seq 1 1000); do dd if=/dev/zero "of=/dev/${SLICES[$i]}" bs=4k count=2 oflag=direct 2>/dev/null; done
	for i in $(seq 1 1000); do create_snap "$i"; done
	for i in $(seq 1 1000); do forget_snap "$i"; done
	for n in 1 100 1000; do
		many snap4 create_snap "$n"
		for i in $(seq 1 "$n"); do forget_snap "$i"; done
		many thin64 create_thin "$n"
		for i in $(seq 1 "$n"); do forget_thin "$i"; done
	done
	dmsetup remove --noudevrules --noudevsync b-pool
	for i in $(seq 1 1000); do dmsetup remove --noudevrules --noudevsync "s$i"; done
	null_gone mthin64 lthin64 store broot proot
}

# --- a large leaf ---

# 64 GiB with every slab in use. The data are discarded; only the metadata is
# kept.
scene_large() {
	local gib=64 kept=256 before
	null_configure_big broot $((gib * 1024))
	null_configure_big kept $kept
	mkdir "$NULLB/nowhere"
	for kv in blocksize=512 size=$((gib * 1024)) max_sectors=4096 power=1; do echo "${kv#*=}" >"$NULLB/nowhere/${kv%%=*}"; done
	printf '0 %s linear /dev/kept 0\n%s %s linear /dev/nowhere 0\n' \
		$((kept * 2048)) $((kept * 2048)) $((gib * 2097152)) |
		dmsetup create large --noudevrules --noudevsync || die "dmsetup create large"
	ubctl create --root /dev/broot --leaf "$(dm_path large)" --format --force >/dev/null || die "create large"
	fio --name=fill --filename=/dev/unionblk0 --allow_file_create=0 --direct=1 --ioengine=io_uring \
		--thread --iodepth=8 --rw=write --bs=1m >/tmp/fio.out 2>&1 || die "fill: $(tail -n 3 /tmp/fio.out)"
	sync
	figure large unionblk slabs "$(cat /sys/block/unionblk0/union/slabs_used)"
	ubctl remove unionblk0 || die "remove large"
	before=$(used_kib)
	timed ubctl create --root /dev/broot --leaf "$(dm_path large)"
	figure large unionblk attach_s "$SECS"
	figure large unionblk attach_kib $(($(used_kib) - before))
	figure large unionblk map_kib $(($(ubctl status unionblk0 --json | json map_bytes) / 1024))
	ubctl remove unionblk0
	dmsetup remove --noudevrules --noudevsync large
	null_gone broot kept nowhere
}

insmod /vm/unionblk.ko || die "insmod"
for scene; do
	"scene_$scene"
	echo "scene $scene ended after $(cut -d' ' -f1 /proc/uptime) s"
done
rmmod unionblk || die "rmmod"
