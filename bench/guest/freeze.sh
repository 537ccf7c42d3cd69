#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# How long I/O pauses while a leaf is frozen, in the guest. fio writes at full
# load to a union whose leaf has many mapped slabs, and logs when each write
# completed. Each line that begins with "freeze" is a measurement:
#   freeze SLABS RUN WHAT VALUE
PATH=/vm:$PATH
# shellcheck disable=SC2034
CPUS=1
# shellcheck disable=SC1091
. /vm/guest/devices

figure() { echo "freeze $*"; }
now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }

# leaf NAME MIB KEPT: a disk in memory. Of its content only the first KEPT MiB
# are kept, with the metadata, and the rest is discarded.
leaf() {
	local kept=$3 rest
	[ "$kept" -lt "$2" ] || kept=$2
	mkdir "$NULLB/$1-kept"
	null_configure "$1-kept" "$kept" none
	rest=$(($2 - kept))
	if [ $rest -le 0 ]; then
		LEAF=/dev/$1-kept
		return
	fi
	mkdir "$NULLB/$1-nowhere"
	for kv in blocksize=512 "size=$rest" max_sectors=4096 cache_size=0 power=1; do
		echo "${kv#*=}" >"$NULLB/$1-nowhere/${kv%%=*}"
	done
	printf '0 %s linear /dev/%s-kept 0\n%s %s linear /dev/%s-nowhere 0\n' \
		$((kept * 2048)) "$1" $((kept * 2048)) $((rest * 2048)) "$1" |
		dmsetup create "$1" --noudevrules --noudevsync || die "dmsetup create $1"
	LEAF=$(dm_path "$1")
}

leaf_gone() {
	dmsetup info "$1" >/dev/null 2>&1 && dmsetup remove --noudevrules --noudevsync "$1"
	for n in "$1-kept" "$1-nowhere"; do
		[ -d "$NULLB/$n" ] || continue
		echo 0 >"$NULLB/$n/power"
		rmdir "$NULLB/$n"
	done
}

# longest LOG FROM TO: the longest time between two completions in a log of fio
# that overlaps FROM..TO, in ms, and the number of completions there.
longest() {
	awk -F, -v from="$2" -v to="$3" '
		$1 >= from && at && at <= to && $1 - at > most { most = $1 - at }
		$1 >= from && $1 <= to { n++ }
		{ at = $1 }
		END { print most + 0, n + 0 }' "$1"
}

# The slabs of 64 KiB that fio maps before the freeze, and the MiB to which half
# of its writes go. These are so many that nearly each write there finds a slab
# that is not mapped, until the freeze is over.
LATE=8192
FRESH_MIB=16384

# used: the slabs in use of the union, in $USED.
used() { read -r USED </sys/block/unionblk0/union/slabs_used; }

# pause SLABS RUN: maps slabs, the last of them by writes of fio, and freezes the
# leaf under that load as soon as it has SLABS. Until then, and while the leaf is
# frozen, half of the writes go to slabs that are mapped, and half to others.
pause() {
	local slabs=$1 run=$2 first=$((($1 - LATE) / 16)) mib kept=256 old new begin end fio tries
	mib=$((first + FRESH_MIB))
	# Few writes fit into memory. A freeze of more slabs is about the map alone.
	[ $first -gt 2048 ] || kept=$((mib * 2))
	mkdir "$NULLB/froot"
	for kv in blocksize=512 "size=$mib" memory_backed=1 max_sectors=4096 power=1; do
		echo "${kv#*=}" >"$NULLB/froot/${kv%%=*}"
	done
	leaf fold $((mib + mib / 8 + 64)) $kept
	old=$LEAF
	leaf fnew $((mib + mib / 8 + 64)) $kept
	new=$LEAF
	ubctl create --root /dev/froot --leaf "$old" --format --force >/dev/null || die "create"
	fio --name=fill --filename=/dev/unionblk0 --allow_file_create=0 --direct=1 --ioengine=io_uring \
		--thread --iodepth=8 --rw=write --bs=1m --size=${first}m >/tmp/fio.out 2>&1 ||
		die "fill: $(tail -n 3 /tmp/fio.out)"
	sync
	used
	figure "$slabs" "$run" filled "$USED"
	rm -f /tmp/load*
	fio --name=load --filename=/dev/unionblk0 --allow_file_create=0 --direct=1 --ioengine=io_uring \
		--thread --iodepth=64 --iodepth_batch_submit=64 --iodepth_batch_complete_max=64 --rw=randwrite \
		--norandommap --random_distribution=zoned_abs:50/${first}m:50/${FRESH_MIB}m --bs=4k --time_based \
		--runtime=60 --randseed="$run" --log_unix_epoch=1 --write_lat_log=/tmp/load --disable_lat=1 \
		--disable_slat=1 >/tmp/fio.out 2>&1 &
	fio=$! tries=3000
	while used && [ "$USED" -lt "$slabs" ]; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || die "fio has mapped no $slabs slabs, but $USED: $(tail -n 3 /tmp/fio.out)"
		sleep 0.01
	done
	figure "$slabs" "$run" used "$USED"
	begin=$(now_ms)
	ubctl freeze unionblk0 --leaf "$new" >/tmp/freeze.out 2>&1 || die "freeze: $(cat /tmp/freeze.out)"
	end=$(now_ms)
	sleep 0.2
	# fio writes its logs, and returns 128.
	kill -TERM $fio
	wait $fio
	case $? in 0 | 128) ;; *) die "fio: $(tail -n 3 /tmp/fio.out)" ;; esac
	grep -q "err= 0" /tmp/fio.out || die "fio: $(tail -n 3 /tmp/fio.out)"
	figure "$slabs" "$run" command_ms $((end - begin))
	set -- "$(longest /tmp/load_clat.1.log 0 $((begin - 1)))" \
		"$(longest /tmp/load_clat.1.log "$begin" "$end")"
	figure "$slabs" "$run" before_ms "${1% *}"
	figure "$slabs" "$run" before_writes "${1#* }"
	figure "$slabs" "$run" pause_ms "${2% *}"
	figure "$slabs" "$run" during_writes "${2#* }"
	figure "$slabs" "$run" layers "$(cat /sys/block/unionblk0/union/layers)"
	ubctl remove unionblk0 || die "remove"
	leaf_gone fold
	leaf_gone fnew
	echo 0 >"$NULLB/froot/power"
	rmdir "$NULLB/froot"
}

insmod /vm/unionblk.ko || die "insmod"
for what; do
	for run in $(seq 1 "${what#*:}"); do
		pause "${what%:*}" "$run"
	done
done
rmmod unionblk || die "rmmod"
