#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The script of `make bench`: runs the driver and its peers in one boot, by
# turns, in User-Mode Linux with one and two processors and, unless quick, in
# QEMU's emulation of the stock kernel, with two processors and with one whose
# instructions are counted; then compares layers (layers.sh) and runs the scenes
# of scenes.sh. Writes bench/results.
#   QUICK=1      few repetitions and cases
#   COUNT=1      only the instructions of raw, dm-linear and the driver, against
#                their goals (count.py), into build/bench/count: exact on a busy
#                machine too; functions.txt there says which functions take them
#   ENVS="uml1"  these environments alone: uml1 uml2 tcg2 tcg1
#   CASES=randread-mapped,overwrite   these cases alone
#   REPS=20      repetitions (default: 10, quick 3)
#   LAYERS=""    no layers (default: all, none if quick or with CASES)
#   SCENES=""    which scenes (default: all, quick none)
#   NOISY=1      continue although the machine is not quiet
#   RESULTS=DIR  elsewhere than bench/results
. "$(dirname "$0")/../scripts/lib.sh"
. "$TOP/bench/lib/machine.sh"
work=$BUILD/bench

if [ -n "${COUNT:-}" ]; then
	export ENVS=tcg1 SCENES='' NOISY=1 RESULTS=build/bench/count
fi

# Outside the build root: collect what is known only there.
if [ -z "${UNIONBLK_IN_ROOT:-}" ]; then
	mkdir -p "$work"
	commit=$(git -C "$TOP" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
	[ -z "$(git -C "$TOP" status --porcelain -- rust tools Kbuild include 2>/dev/null)" ] || commit=$commit-dirty
	printf '%s\n' "$commit" >"$work/commit"
	LAYERS=${LAYERS-$([ -n "${QUICK:-}${CASES:-}" ] || echo yes)}
	printf '%s\n' "${COUNT:-}" "${QUICK:-}" "${ENVS:-}" "${CASES:-}" "${REPS:-}" "${NOISY:-}" "${RESULTS:-}" "$LAYERS" \
		"${SCENES-$([ -n "${QUICK:-}" ] || echo files change many large layers)}" >"$work/asked"
	exec "$TOP/scripts/in-root.sh" bench/run.sh
fi
{ read -r COUNT; read -r QUICK; read -r ENVS; read -r CASES; read -r REPS; read -r NOISY; read -r RESULTS; read -r LAYERS; read -r SCENES; } <"$work/asked"
results=${RESULTS:-bench/results}
[ -n "$ENVS" ] || ENVS=$([ -n "$QUICK" ] && echo uml1 uml2 || echo uml1 uml2 tcg2 tcg1)

guest_files() {
	options+=(-f "$work/plan-$env:plan" -f "$TOP/bench/guest:guest"
		-f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl")
}

run_uml() {
	local options=(-s "$work/host-$env" -n "bench-$env" -m 9728 -c "${env#uml}" -t 7200)
	guest_files
	options+=(-f "$BUILD/kmod-bench-$([ "$env" = uml1 ] && echo up || echo smp)/unionblk.ko")
	options+=(-w "python3 -B $TOP/bench/cpu.py $work/cpu-$env")
	nice -n -20 "$TOP/scripts/uml.sh" "${options[@]}" -- sh guest/run plan
	rm -rf "$work/raw-$env"
	mv "$work/host-$env/results" "$work/raw-$env"
	mv "$work/cpu-$env" "$work/raw-$env/cpu"
}

run_tcg() {
	local options=(-n "bench-$env" -m 4096 -c "${env#tcg}" -t 3600)
	[ "$env" != tcg1 ] || options+=(-i -x "$BUILD/counter/counter.so,out=$work/counts" -f "$BUILD/counter/mark.so")
	guest_files
	options+=(-f "$BUILD/kmod/unionblk.ko")
	"$TOP/scripts/vm.sh" "${options[@]}" -- sh guest/run plan >"$work/out-$env"
	rm -rf "$work/raw-$env" "$work/results"
	sed '1,/^results begin/d; /^bench done/d' "$work/out-$env" | base64 -d -i | tar -C "$work" -xz
	mv "$work/results" "$work/raw-$env"
	[ "$env" != tcg1 ] || mv "$work/counts" "$work/raw-$env/"
}

one_env() {
	python3 -B "$TOP/bench/plan.py" --env "$env" ${QUICK:+--quick} ${REPS:+--reps "$REPS"} \
		${CASES:+--cases "$CASES"} ${COUNT:+--peers linear,unionblk} "$work/plan-$env"
	case $env in
	tcg*) run_tcg ;;
	*) run_uml ;;
	esac
}

builds=(tools)
for env in $ENVS; do
	case $env in
	uml1) builds+=(modules-bench-up) ;;
	uml2) builds+=(modules-bench-smp) ;;
	tcg2) builds+=(modules) ;;
	tcg1) builds+=(modules counter) ;;
	*) die "no environment $env: uml1 uml2 tcg2 tcg1" ;;
	esac
done
mapfile -t builds < <(printf '%s\n' "${builds[@]}" | sort -u)
"$TOP/scripts/build.sh" "${builds[@]}"
quiet=yes
is_quiet || quiet=no
if [ "$quiet" = no ] && [ -z "$QUICK$NOISY" ]; then
	die "the machine is not quiet: stop what runs beside, or NOISY=1 for figures marked as noisy"
fi
[ "$quiet" = yes ] || say "the machine is not quiet: the figures are marked as noisy"
start=$SECONDS
for env in $ENVS; do
	rm -rf "$work/plan-$env"
	stage "bench $env" one_env
done
layers=()
[ -z "$LAYERS" ] || for env in $ENVS; do
	case $env in uml1 | tcg1) layers+=("$env") ;; esac
done
if [ ${#layers[@]} != 0 ]; then
	printf '%s\n' "$(cat "$work/commit")" "$QUICK" "${COUNT:+union}" "$RESULTS" '' >"$work/layers-asked"
	"$TOP/bench/layers.sh" "${layers[@]}"
fi
rm -f "$work/scenes.json"
if [ -n "$SCENES" ]; then
	# shellcheck disable=SC2086 # they are words
	stage "bench scenes" "$TOP/bench/scenes.sh" "$work/scenes.json" $SCENES
fi
[ "$quiet" = no ] || is_quiet || quiet=no
# shellcheck disable=SC2086 # ENVS are words
python3 -B "$TOP/bench/report.py" --commit "$(cat "$work/commit")" --cpu "$(cpu_model)" --quiet "$quiet" \
	${QUICK:+--quick} --work "$work" --results "$results" $ENVS
say "bench took $((SECONDS - start)) s"
if [ -n "$COUNT" ]; then
	# Names of Rust, without the hashes of their crates.
	python3 -B "$TOP/bench/functions.py" "$work/raw-tcg1" | c++filt |
		sed -E 's/\[[0-9a-f]{8,}\]//g' >"$results/functions.txt"
	say "by function: $results/functions.txt"
	mapfile -t files < <(ls "$results/latest.json.zst" ${layers:+"$results/layers.json.zst"})
	python3 -B "$TOP/bench/count.py" "${files[@]}"
fi
