#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Records in a guest what the driver writes to a leaf, and checks every moment
# of it on the host. Some moments are attached and mounted in another guest.
# SIZE, SEED as in run.sh.
. "$(dirname "$0")/lib.sh"

export CARGO_TARGET_DIR=$BUILD/cargo
cargo build --locked -q -p crash
crash=$CARGO_TARGET_DIR/debug/crash
crash_build
work=$BUILD/crash-points
mkdir -p "$work"

# record WHAT SEED OPERATIONS
record() {
	rm -f "$work"/log "$work"/operations
	truncate -s 4G "$work/log"
	truncate -s 64M "$work/operations"
	crash_guest points 1200 -m 1024 -d "$work/log" -d "$work/operations" -- sh crash/points "$@"
}

# check NAME ARGUMENT...: prints the report; returns whether nothing has failed
check() {
	local name=$1
	shift
	if "$crash" points "$work/log" "$@"; then return; fi
	failures=$((failures + 1))
	# Keeps what failed for another look.
	cp --sparse=always "$work/log" "$work/$name.failed.log"
	cp --sparse=always "$work/operations" "$work/$name.failed.operations"
	return 1
}

# raw SEED OPERATIONS VARIANTS
raw() {
	if ! record raw "$1" "$2"; then
		failures=$((failures + 1))
		return
	fi
	check "raw-$1" raw "$work/operations" "$3" "$1" || return 0
	# An oracle that takes too much for durable must find a fault. If it finds
	# none, the check above proves nothing.
	plan 1
	if "$crash" points "$work/log" raw "$work/operations" "$3" "$1" believe >"$work/believe.out"; then
		fails "raw-$1: a power failure loses something of the log"
	else
		passes "raw-$1: a power failure loses something of the log"
	fi
}

# mount_points FS NAME: mounts what check has kept for a guest
mount_points() {
	if ! crash_guest "mounts-$1" 900 -m 1024 -d "$work/image.leaves" -f "$work/image.list:list" \
		-- sh crash/mounts "$1"; then
		failures=$((failures + 1))
		mv "$work/image.leaves" "$work/$2.failed.leaves"
		mv "$work/image.list" "$work/$2.failed.list"
	fi
}

# files FS SEED OPERATIONS VARIANTS POINTS MOUNTED
files() {
	if ! record "$1" "$2" "$3"; then
		failures=$((failures + 1))
		return
	fi
	if check "$1-$2" "$1" "$work/image" "$4" "$2" "$5" "$6"; then
		mount_points "$1" "$1-$2"
	fi
	rm -f "$work"/image "$work"/image.*
}

round() {
	if [ "$SIZE" = quick ]; then
		raw "$1" 60 3
		return
	fi
	raw "$1" 400 4
	raw $(($1 + 1)) 400 4
	files ext4 "$1" 40 2 1000 20
	files btrfs "$1" 25 1 200 20
	files xfs "$1" 40 1 1000000 100
}
round "$SEED"
while [ "$SIZE" = soak ] && [ $failures = 0 ]; do
	SEED=$((SEED + 100))
	round "$SEED"
done
rm -rf "$work/log" "$work/operations"
[ $failures = 0 ]
