#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Compares unions on 1 to 254 layers with chains of dm-snapshots, overlayfs, and chains of qcow2
# images behind qemu-nbd: instructions (tcg1), and times in User-Mode Linux (uml1). Writes
# bench/results/layers.json.zst and layers.svg, and the part of README.md about layers.
#   bench/layers.sh [ENV]...    uml1 tcg1 (both if none is named)
#   QUICK=1        few repetitions
#   KINDS=union    these kinds alone: union,snapshot,overlayfs,qcow2. Figures of the others in
#                  this environment leave the results; those of another environment stay
#   RESULTS=DIR    elsewhere than bench/results
#   COUNT=1        only the instructions of unions, against their goals, into build/bench/count
. "$(dirname "$0")/../scripts/lib.sh"
. "$TOP/bench/lib/machine.sh"
work=$BUILD/bench

# Outside the build root: collect what is known only there.
if [ -z "${UNIONBLK_IN_ROOT:-}" ]; then
	mkdir -p "$work"
	commit=$(git -C "$TOP" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
	[ -z "$(git -C "$TOP" status --porcelain -- rust tools Kbuild include 2>/dev/null)" ] || commit=$commit-dirty
	printf '%s\n' "$commit" "${QUICK:-}" "${KINDS:-}" "${RESULTS:-}" "${COUNT:-}" >"$work/layers-asked"
	exec "$TOP/scripts/in-root.sh" bench/layers.sh "$@"
fi
{ read -r commit; read -r QUICK; read -r KINDS; read -r RESULTS; read -r COUNT; } <"$work/layers-asked"
if [ -n "$COUNT" ]; then
	set -- tcg1
	KINDS=union RESULTS=build/bench/count
fi
[ $# -gt 0 ] || set -- uml1 tcg1
results=${RESULTS:-bench/results}

one_env() {
	local env=$1 plan=$work/layers-plan-$1 raw=$work/layers-raw-$1 options=() qemu
	rm -rf "$plan" "$raw"
	python3 -B "$TOP/bench/layers.py" plan --env "$env" ${QUICK:+--quick} ${KINDS:+--kinds "$KINDS"} "$plan"
	options=(-f "$plan:plan" -f "$TOP/bench/guest:guest" -f "$BUILD/programs/sectors"
		-f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl" -t 7200)
	if [ "$env" = uml1 ]; then
		options+=(-n layers-uml1 -m 6144 -c 1 -s "$work/layers-host" -f "$BUILD/kmod-bench-up/unionblk.ko"
			-w "python3 -B $TOP/bench/cpu.py $work/layers-cpu")
		nice -n -20 "$TOP/scripts/uml.sh" "${options[@]}" -- sh guest/run plan
		mv "$work/layers-host/results" "$raw"
		mv "$work/layers-cpu" "$raw/cpu"
		return
	fi
	options+=(-i -n layers-tcg1 -m 4096 -f "$BUILD/kmod/unionblk.ko")
	if grep -q '^layers qcow2' "$plan/steps"; then
		qemu=$(bash -c '. "$0"; echo "$HEAD_MIB $UNIT_MIB"' "$plan/sizes")
		# shellcheck disable=SC2086 # two numbers
		qemu=$("$TOP/bench/qemu.sh" $qemu 1 8 32 128)
		options+=(-f "$qemu/qemu:qemu" -f "$qemu/qcow2:qcow2")
	fi
	"$TOP/scripts/vm.sh" "${options[@]}" -- sh guest/run plan >"$work/layers-out"
	rm -rf "$work/results"
	sed '1,/^results begin/d; /^bench done/d' "$work/layers-out" | base64 -d -i | tar -C "$work" -xz
	mv "$work/results" "$raw"
}

builds=(tools programs)
for env; do
	case $env in
	uml1) builds+=(modules-bench-up) ;;
	tcg1) builds+=(modules) ;;
	*) die "no environment $env: uml1 tcg1" ;;
	esac
done
"$TOP/scripts/build.sh" "${builds[@]}"
quiet=yes
is_quiet || quiet=no
for env; do
	stage "layers in $env" one_env "$env"
	python3 -B "$TOP/bench/layers.py" figures --env "$env" "$work/layers-raw-$env" "$work/layers-$env.json"
done
[ "$quiet" = no ] || is_quiet || quiet=no
# shellcheck disable=SC2046,SC2059 # a list of files
python3 -B "$TOP/bench/layers.py" report --commit "$commit" --cpu "$(cpu_model)" --quiet "$quiet" \
	${QUICK:+--quick} --results "$results" $(printf "$work/layers-%s.json " "$@")
[ -z "$COUNT" ] || python3 -B "$TOP/bench/count.py" "$results/layers.json.zst"
