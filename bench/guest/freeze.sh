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

# leaf NAME MIB: a disk in memory. Of a large one only the metadata is kept, and
# the data are discarded.
leaf() {
	local kept=$2 rest
	[ "$kept" -le 3072 ] || kept=256
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

# pause SLABS RUN: maps SLABS slabs of 64 KiB, and freezes the leaf under load.
# As many slabs again are not mapped, so writes change the map all the time.
pause() {
	local slabs=$1 run=$2 mib=$(($1 / 8)) old new begin end
	mkdir "$NULLB/froot"
	for kv in blocksize=512 "size=$mib" memory_backed=1 max_sectors=4096 power=1; do
		echo "${kv#*=}" >"$NULLB/froot/${kv%%=*}"
	done
	leaf fold $((mib + mib / 8 + 64))
	old=$LEAF
	leaf fnew $((mib + mib / 8 + 64))
	new=$LEAF
	ubctl create --root /dev/froot --leaf "$old" --format --force >/dev/null || die "create"
	fio --name=fill --filename=/dev/unionblk0 --allow_file_create=0 --direct=1 --ioengine=io_uring \
		--thread --iodepth=8 --rw=write --bs=1m --size=$((mib / 2))m >/tmp/fio.out 2>&1 ||
		die "fill: $(tail -n 3 /tmp/fio.out)"
	sync
	figure "$slabs" "$run" mapped "$(cat /sys/block/unionblk0/union/slabs_used)"
	rm -f /tmp/load*
	fio --name=load --filename=/dev/unionblk0 --allow_file_create=0 --direct=1 --ioengine=io_uring \
		--thread --iodepth=64 --iodepth_batch_submit=64 --iodepth_batch_complete_max=64 --rw=randwrite \
		--norandommap --bs=4k --time_based --runtime=8 --randseed="$run" --log_unix_epoch=1 \
		--write_lat_log=/tmp/load --disable_lat=1 --disable_slat=1 >/tmp/fio.out 2>&1 &
	sleep 4
	begin=$(now_ms)
	ubctl freeze unionblk0 --leaf "$new" >/tmp/freeze.out 2>&1 || die "freeze: $(cat /tmp/freeze.out)"
	end=$(now_ms)
	wait $! || die "fio: $(tail -n 3 /tmp/fio.out)"
	figure "$slabs" "$run" command_ms $((end - begin))
	set -- "$(longest /tmp/load_clat.1.log $((begin - 3000)) $((begin - 1)))" \
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
