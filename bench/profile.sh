#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Shows where the time of one case goes, by function: perf looks at User-Mode
# Linux from outside. Needs perf on this machine.
#   bench/profile.sh CASE DEVICE [SECONDS]     e.g. randread-mapped unionblk 5
#   DEPTH=qd1      instead of batches
. "$(dirname "$0")/../scripts/lib.sh"
need_root profile.sh
command -v perf >/dev/null || die "no perf on this machine"
case_name=${1:?a case of bench/jobs} device=${2:?a device} seconds=${3:-5}
work=$BUILD/profile
rm -rf "$work"
mkdir -p "$work"
python3 -B "$TOP/bench/plan.py" --env uml1 --profile "$case_name" --depth "${DEPTH:-batch}" \
	--seconds $((seconds + 4)) "$work/plan" >/dev/null
"$TOP/scripts/build.sh" modules-bench-up tools
kernel=$("$TOP/scripts/kernel-kunit.sh" bench-up)
image=$CACHE/${kernel#/cache/}/image
cat >"$work/pid.sh" <<'END'
echo "$2" >"$1"
END
in_top() { printf '/src/%s' "${1#"$TOP"/}"; }
nice -n -20 "$TOP/scripts/uml.sh" -n profile -m 9728 -c 1 -t 600 -s "$(in_top "$work")/host" \
	-w "sh $(in_top "$work")/pid.sh $(in_top "$work")/pid" \
	-f "$(in_top "$work")/plan:plan" -f /src/bench/guest:guest -f /src/build/kmod-bench-up/unionblk.ko \
	-f /src/build/cargo/x86_64-unknown-linux-gnu/release/ubctl \
	-- sh guest/profile "$case_name" "$device" >"$work/out" 2>&1 &
guest=$!
until grep -q '^profile begin' "$work/out"; do
	kill -0 "$guest" 2>/dev/null || { tail -n 5 "$work/out"; die "the guest ended early"; }
	sleep 0.2
done
# fio starts, and first measures the processor's clock.
sleep 2
perf record -q -e cpu-clock -F 4000 -p "$(cat "$work/pid")" -o "$work/perf.data" -- sleep "$seconds"
wait "$guest" || die "the guest failed: $work/out"
perf script -i "$work/perf.data" -F ip 2>/dev/null >"$work/ips"
nm "$image" >"$work/nm"
python3 -B "$TOP/bench/profile.py" "$work" | c++filt
