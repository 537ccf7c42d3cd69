#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes a flame graph of one case: which functions of the stock kernel, called by which, take the
# instructions. The machine is emulated, with a clock that counts instructions. A timer interrupt
# comes after each so many of them, and records the interrupted stack in the trace.
#   bench/flame.sh CASE DEVICE [SECONDS]     e.g. randread-mapped unionblk 10
#   DEPTH=qd1      instead of batches
# Writes build/flame/CASE-DEVICE.svg, a picture without a script in it, and the same as
# text: .folded.
. "$(dirname "$0")/../scripts/lib.sh"
need_root flame.sh
version=0.12.3
case_name=${1:?a case of bench/jobs} device=${2:?a device} seconds=${3:-10}
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" env "DEPTH=${DEPTH:-batch}" bench/flame.sh "$@"
work=$BUILD/flame name=$case_name-$device
rm -rf "$work/plan"
mkdir -p "$work"
draw=$CACHE/tools/bin/inferno-flamegraph
[ -x "$draw" ] || stage "build inferno" cargo install -q --locked --root "$CACHE/tools" \
	--no-default-features --features cli inferno --version $version
"$TOP/scripts/build.sh" modules tools
python3 -B "$TOP/bench/plan.py" --env tcg1 --profile "$case_name" --depth "$DEPTH" --seconds "$seconds" \
	--only "$device" "$work/plan" >/dev/null
stage "$case_name on $device, emulated" "$TOP/scripts/vm.sh" -i -n flame -m 4096 -t 3600 -f "$work/plan:plan" \
	-f "$TOP/bench/guest:guest" -f "$BUILD/kmod/unionblk.ko" \
	-f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl" \
	-- sh guest/flame "$case_name"
python3 -B "$TOP/bench/flame.py" "$BUILD/log/vm-flame.out" | c++filt >"$work/$name.folded"
"$draw" --title "$case_name, $device" --countname samples --minwidth 0.2 --colors mem --width 1200 --no-javascript \
	"$work/$name.folded" >"$work/$name.svg"
say "build/flame/$name.svg: $(awk '{ n += $NF } END { print n }' "$work/$name.folded") samples"
