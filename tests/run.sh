#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs every test; continues after a failure and counts all cases.
#   tests/run.sh [STAGE]...    default: all of the two lists below
# The stages of the two lists run at the same time (JOBS=1: one after another), because an
# emulated guest leaves processors idle.
# FULL=1: the crash campaigns in full, each read of a command that is cut, ten minutes of fuzzing,
# all device tests of the group unionblk with lockdep, all tests of the group scale, and the stages
# containers and deb.
# TEST_MINUTES=N: a stage, or a part of the stage crash, that could not begin in the first N
# minutes counts as one skip.
# Each stage leaves its output in build/log/test-STAGE.log.
. "$(dirname "$0")/../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/run.sh "$@"

host=(format shell strata docs lint core coverage fuzz crash)
guests=(build kunit vm lockdep scale demo poweroff)
[ -z "${FULL:-}" ] || guests+=(containers deb)
kernel=
tree() { [ -n "$kernel" ] || kernel=$("$TOP/scripts/kernel.sh"); printf '%s/tree\n' "$kernel"; }

# Each stage_NAME ends with a line "N passed, N failed[, N skipped]". one() runs
# a case that is a single command.
passed=0 failed=0
one() {
	local name=$1
	shift
	if "$@"; then
		printf 'passed: %s\n' "$name"
		passed=$((passed + 1))
	else
		printf 'FAILED: %s\n' "$name"
		failed=$((failed + 1))
	fi
}
sum_up() { printf '%d passed, %d failed\n' "$passed" "$failed"; [ "$failed" = 0 ]; }

stage_format() {
	local list
	mapfile -t list < <(find rust tools tests -name '*.rs' 2>/dev/null | sort)
	one "rustfmt with the kernel's settings, ${#list[@]} files" \
		rustfmt --check --color never --edition 2021 --config-path "$(tree)/.rustfmt.toml" "${list[@]}"
	sum_up
}

stage_shell() {
	one "shellcheck of the scripts" shellcheck -x -P SCRIPTDIR scripts/*.sh tests/*.sh tests/containers/*.sh tests/crash/*.sh tests/fuzz/*.sh tests/poweroff/*.sh tests/data/*.sh tests/deb/*.sh scripts/deb/dkms-build bench/*.sh tests/bench/*.sh bench/guest/*.sh bench/lib/*.sh tests/vm/new .ci/run
	# SC2034, SC2119, SC2120: the file that sources the tests reads their
	# variables and arguments.
	one "shellcheck of the guest's scripts" shellcheck -S warning -s sh -x -e SC2034,SC2119,SC2120 \
		scripts/guest-init scripts/demo/* tests/kunit/guest tests/containers/guest/{containerd,lib,suite} tests/crash/guest/* tests/poweroff/guest/* tests/deb/guest/* scripts/deb/*.{postinst,prerm,postrm} tests/vm/check tests/vm/common/* \
		tests/vm/unionblk/[0-9][0-9][0-9] tests/vm/scale/[0-9][0-9][0-9] tests/vm/memory/[0-9][0-9][0-9] tests/vm/soak/[0-9][0-9][0-9] tests/vm/selftest/[0-9][0-9][0-9] \
		bench/guest/run bench/guest/devices bench/guest/layers bench/guest/profile bench/guest/flame
	sum_up
}

stage_strata() {
	local counts
	one "strata and house rules" scripts/check-strata.sh
	one "commit messages" scripts/check-commits.sh
	one "the word list of guidelines.rst" scripts/check-words.py
	one "one version everywhere" scripts/check-version.sh
	one "instructions by function and their goals" python3 -B tests/bench/functions.py
	counts=$(tests/strata.sh) || true
	printf '%s\n' "$counts"
	add_counts "$(tail -n 1 <<<"$counts")"
	sum_up
}

stage_docs() {
	one "the pages name what the tree has" scripts/check-docs.py
	one "Sphinx builds pages and man pages without a warning" scripts/docs.sh
	sum_up
}

# Builds the module without a warning under W=1 and the kernel's clippy, each
# from scratch, because an up-to-date object repeats no warning.
quiet_build() {
	local log=$BUILD/log/quiet-build.log dir=$BUILD/kmod-quiet code=0
	rm -rf "$dir"
	make -C "$(tree)" M="$TOP" MO="$dir" -j"$(nproc)" W=1 "$@" modules >"$log" 2>&1 || code=1
	if [ $code != 0 ] || grep -qE '(^|[^a-z])(warning|WARNING)[:[ ]' "$log"; then
		cat "$log"
		return 1
	fi
}

stage_lint() {
	one "cargo clippy without a warning" cargo_clippy
	one "kernel clippy and W=1 without a warning" quiet_build CLIPPY=1
	sum_up
}
cargo_clippy() {
	export CARGO_TARGET_DIR=$BUILD/cargo
	cargo clippy --locked --workspace --all-targets -- -D warnings &&
		(cd tests/fuzz && cargo clippy --locked --all-targets -- -D warnings) &&
		cargo clippy --locked -p races --features model --all-targets -- -D warnings
}

stage_build() {
	one "unionblk.ko for the stock kernel" scripts/build.sh modules
	one "unionblk.ko for the KUNIT=y kernel" scripts/build.sh modules-kunit-x86_64
	one "frames on the stack of unionblk.ko" scripts/check-frames.py "$ko" 5120
	one "frames on the stack of its KUnit tests" scripts/check-frames.py "$BUILD/kmod-kunit-x86_64/unionblk.ko" 11264
	one "ubctl, static" scripts/build.sh tools
	one "the tests' programs" scripts/build.sh programs
	one "the counter of instructions of make bench" tests/bench/counter.sh
	one "unionblk.ko and ubctl have the version of Cargo.toml" built_version
	one "make install puts each file in its place" installed
	sum_up
}

ko=$BUILD/kmod/unionblk.ko ubctl=$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl
built_version() { scripts/check-version.sh "$(modinfo -F version "$ko")" "$("$ubctl" --version | cut -d' ' -f2)"; }

# Installs into an empty directory and compares the files there with this list.
installed() {
	local to release code=0
	# The stage docs may build the pages at the same time, under this lock.
	exec 8>"$BUILD/docs.lock"
	flock 8
	[ -f "$BUILD/docs/man/ubctl.8" ] || { flock -u 8 && scripts/docs.sh && flock 8; } || return 1
	to=$(mktemp -d)
	release=$(modinfo -F vermagic "$ko" | cut -d' ' -f1)
	scripts/install.sh "$ko" "$ubctl" /usr/local "$to" && diff - <(cd "$to" && find . ! -type d -size +0 | LC_ALL=C sort) <<-END || code=1
		./lib/modules/$release/updates/unionblk.ko
		./usr/local/include/unionblk.h
		./usr/local/lib/systemd/system-generators/unionblk-generator
		./usr/local/lib/systemd/system/sysinit.target.wants/unionblk.service
		./usr/local/lib/systemd/system/unionblk.service
		./usr/local/lib/udev/rules.d/60-unionblk.rules
		./usr/local/sbin/ubctl
		./usr/local/share/bash-completion/completions/ubctl
		./usr/local/share/fish/vendor_completions.d/ubctl.fish
		./usr/local/share/man/man5/ubtab.5
		./usr/local/share/man/man5/unionblk.5
		./usr/local/share/man/man8/ubctl.8
		./usr/local/share/zsh/site-functions/_ubctl
	END
	rm -r "$to"
	exec 8>&-
	return $code
}

stage_core() {
	CARGO_TARGET_DIR=$BUILD/cargo timeout 2700 cargo test --locked --workspace --no-fail-fast 2>&1 |
		tee "$BUILD/log/cargo-test.log" || failed=$((failed + 1))
	add_counts "$(awk '/^test result:/ { p += $4; f += $6; i += $8 } END { printf "%d passed, %d failed, %d skipped", p, f, i }' "$BUILD/log/cargo-test.log")"
	[ "$passed" -gt 0 ] || failed=$((failed + 1))
	sum_up
}

stage_coverage() { one "line coverage of the core" scripts/coverage.sh; sum_up; }
# Fuzzes for a minute for all targets together; each target is a case.
stage_fuzz() {
	local log=$BUILD/log/fuzz.out
	FUZZ_SECONDS=${FUZZ_SECONDS:-$([ -n "${FULL:-}" ] && echo 600 || echo 60)} tests/fuzz/run.sh | tee "$log" || [ "${PIPESTATUS[0]}" = 0 ] || failed=1
	add_counts "$(awk '/^passed:/ { p++ } /^FAILED:/ { f++ } END { printf "%d passed, %d failed", p, f }' "$log")"
	[ "$passed" -gt 0 ] || failed=1
	sum_up
}
# Runs the crash campaigns of the chosen size; each part is a case.
stage_crash() {
	local part log=$BUILD/log/crash.out
	for part in $(tests/crash/run.sh list); do
		if late; then
			printf 'skipped: crash/%s: it could not begin in %d minutes\n' "$part" "$TEST_MINUTES"
			skipped=$((skipped + 1))
			continue
		fi
		SIZE=$([ -n "${FULL:-}" ] && echo full || echo quick) tests/crash/run.sh "$part" | tee "$log" || [ "${PIPESTATUS[0]}" = 0 ] || failed=1
		add_counts "$(awk '/^passed:/ { p++ } /^FAILED:/ { f++ } END { printf "%d passed, %d failed", p, f }' "$log")"
	done
	printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
	[ "$failed" = 0 ]
}
stage_kunit() { scripts/kunit.sh x86_64; }

# Tests the runner first, by tests whose results are known. Some of them are
# failures.
stage_vm() {
	local out code=0
	out=$(tests/run-vm.sh selftest) || code=$?
	one "the runner distinguishes failures from successes" \
		[ "$code $(tail -n 1 <<<"$out")" = "1 2 passed, 4 failed, 1 skipped" ]
	[ "$failed" = 0 ] || printf '%s\n' "$out"
	device_tests stock
	# These tests need little memory, so they run in a smaller guest.
	device_tests stock memory
}
# Tests many unions, large unions, and many attaches of one union, in a larger
# guest. FULL=1: many unions on one stack, and up to 254 layers, too.
stage_scale() {
	local tests=(scale/001 scale/002 scale/003)
	[ -z "${FULL:-}" ] || tests=(scale)
	device_tests stock "${tests[@]}"
}
# Runs device tests on the kernel that checks locking and looks for leaks: those
# in which requests, work items, attach and detach meet. FULL=1 runs all of the group
# unionblk. The group memory takes three times as long there and is left out.
stage_lockdep() {
	local subject subjects=()
	for subject in attach commit discard errors memory queue stress; do subjects+=(-g "$subject"); done
	[ -z "${FULL:-}" ] || subjects=(unionblk)
	device_tests kunit "${subjects[@]}"
}

device_tests() {
	local code=0
	KERNEL=$1 tests/run-vm.sh "${@:2}" | tee "$BUILD/log/vm-tests.out" || code=$?
	if tail -n 1 "$BUILD/log/vm-tests.out" | grep -qE '^[0-9]+ passed, [0-9]+ failed'; then
		add_counts "$(tail -n 1 "$BUILD/log/vm-tests.out")"
	else
		# The guest did not get as far as a test.
		failed=$((failed + 1))
	fi
	# The guest died, or ran out of time.
	[ $code -le 1 ] || failed=$((failed + 1))
	printf '%d passed, %d failed' "$passed" "$failed"
	[ "$skipped" = 0 ] || printf ', %d skipped' "$skipped"
	printf '\n'
	[ "$failed" = 0 ]
}

# Boots a systemd guest twice, with unions on images when it is powered off.
stage_poweroff() { one "file systems under unions end clean (two boots of systemd)" tests/poweroff/run.sh; sum_up; }
# Tests ubsnapd in a guest; each test of containerd's suite is a case. FULL=1: with containerd, too,
# and with images from a registry.
stage_containers() {
	local log=$BUILD/log/containers.cases
	tests/containers/run.sh | tee "$log" || [ "${PIPESTATUS[0]}" = 0 ] || failed=1
	add_counts "$(awk '/^passed:/ { p++ } /^FAILED:/ { f++ } END { printf "%d passed, %d failed", p, f }' "$log")"
	[ "$passed" -gt 0 ] || failed=1
	sum_up
}
# Builds the Debian packages, and installs and removes them in a guest and in a build root.
stage_deb() {
	local log=$BUILD/log/deb.cases
	tests/deb/run.sh | tee "$log" || [ "${PIPESTATUS[0]}" = 0 ] || failed=1
	add_counts "$(awk '/^passed:/ { p++ } /^FAILED:/ { f++ } END { printf "%d passed, %d failed", p, f }' "$log")"
	[ "$passed" -gt 0 ] || failed=1
	sum_up
}
stage_demo() { one "the demo: unions of a Debian image and layers of it (three boots)" scripts/demo.sh; sum_up; }

skipped=0
# add_counts "N passed, N failed[, N skipped]"
add_counts() {
	[[ $1 =~ ([0-9]+)\ passed,\ ([0-9]+)\ failed(,\ ([0-9]+)\ skipped)? ]] || return 0
	passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
	skipped=$((skipped + ${BASH_REMATCH[4]:-0}))
}

# Makes what a stage needs, before the stage, and reports what is made.
prepare() {
	case $1 in
	format | lint | vm | crash) tree >/dev/null ;;
	build | kunit | lockdep) "$TOP/scripts/kernel-kunit.sh" x86_64 >/dev/null ;;
	demo) "$TOP/scripts/image.sh" >/dev/null ;;
	poweroff | deb) "$TOP/scripts/image-systemd.sh" >/dev/null ;;
	esac
}

# Prints cases as they end, for a stage that has many; V=1 prints everything.
progress() {
	if [ -n "${V:-}" ]; then cat; else
		grep --line-buffered -E '^(passed:|FAILED:|skipped:|crash:|fuzz:|[a-z]+/[0-9]{3} |kmemleak |    measured: )'
	fi | sed -u "s/^/   $1/"
}

# result STAGE "N passed, N failed[, N skipped]" SECONDS: keeps it for the sum, and prints it.
result() {
	printf '%s\t%s\n' "$1" "$2" >>"$results"
	printf '   %s: %s (%d s)\n' "$1" "$2" "$3"
}

# The stage runs in a subshell, so that its counters are private.
# shellcheck disable=SC2030,SC2031
run_stage() {
	local name=$1 log=$BUILD/log/test-$1.log start=$SECONDS code=0 last tag=''
	[ "$lanes" = 1 ] || tag="$name: "
	printf '== %s\n' "$name"
	(set +e; passed=0 failed=0 skipped=0; "stage_$name") 2>&1 | tee "$log" | progress "$tag" || code=${PIPESTATUS[0]}
	last=$(tail -n 1 "$log")
	if ! grep -qE '^[0-9]+ passed, [0-9]+ failed' <<<"$last"; then
		last="0 passed, 1 failed"
		code=1
	fi
	if [ "$code" != 0 ]; then
		[ -n "${V:-}" ] || tail -n 80 "$log" | sed "s/^/   $tag| /"
		grep -q ' 0 failed' <<<"$last" && last=${last/ 0 failed/ 1 failed}
	fi
	result "$name" "$last" $((SECONDS - start))
}

late() { [ -n "${TEST_MINUTES:-}" ] && [ $((SECONDS - began)) -ge $((TEST_MINUTES * 60)) ]; }

# Runs stages one after another.
lane() {
	local name
	for name; do
		if late; then
			printf '== %s\n   skipped: it could not begin in %d minutes\n' "$name" "$TEST_MINUTES"
			result "$name" "0 passed, 0 failed, 1 skipped" 0
		else
			run_stage "$name"
		fi
	done
}

# Prints those of the stages $chosen that are in a list.
of_list() {
	local name
	for name in "${chosen[@]}"; do
		[[ " $* " != *" $name "* ]] || printf '%s\n' "$name"
	done
}

# Repeats at the end what failed in each stage, and why.
what_failed() {
	local name
	for name; do
		printf -- '-- %s: what failed (all of it in build/log/test-%s.log)\n' "$name" "$name"
		grep -aE -A 12 '^ *FAILED|\[failed\]|^---- .* stdout|^error(\[|:)|panicked at' "$BUILD/log/test-$name.log" |
			sed -n 1,60p || tail -n 20 "$BUILD/log/test-$name.log"
	done
}

# shellcheck disable=SC2031 # run_stage's counters are these, its subshells' are not
main() {
	local name last first second failures=()
	mkdir -p "$BUILD/log"
	[ $# -gt 0 ] || set -- "${host[@]}" "${guests[@]}"
	chosen=("$@") began=$SECONDS lanes=1 results=$BUILD/log/test-results
	for name; do
		declare -F "stage_$name" >/dev/null || die "no stage $name: ${host[*]} ${guests[*]} containers deb"
	done
	: >"$results"
	for name; do prepare "$name" || say "the kernel or image that the stage $name needs could not be built: see build/log"; done
	mapfile -t first < <(of_list "${guests[@]}")
	mapfile -t second < <(of_list "${host[@]}")
	if [ "${JOBS:-2}" -gt 1 ] && [ $((${#first[@]} + ${#second[@]})) = $# ] && [ ${#first[@]} != 0 ] && [ ${#second[@]} != 0 ]; then
		lanes=2
		lane "${second[@]}" &
		lane "${first[@]}"
		wait
	else
		lane "$@"
	fi
	while IFS=$'\t' read -r name last; do
		add_counts "$last"
		grep -q ' 0 failed' <<<"$last" || failures+=("$name")
	done <"$results"
	what_failed "${failures[@]}"
	printf 'tests took %d s\n' $((SECONDS - began))
	printf '%d passed, %d failed' $passed $failed
	[ $skipped = 0 ] || printf ', %d skipped' $skipped
	printf '\n'
	[ $failed = 0 ]
}
main "$@"
