#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds in the build root. Each thing is built only when something has changed.
#   scripts/build.sh modules    build/kmod/unionblk.ko, for the stock kernel
#   scripts/build.sh modules-kunit-x86_64, modules-kunit-um
#                               build/kmod-kunit-ARCH/unionblk.ko, for the KUNIT=y kernel
#   scripts/build.sh modules-bench-up, modules-bench-smp
#                               build/kmod-bench-.../unionblk.ko, for the kernels of `make bench`
#   scripts/build.sh test-modules, test-modules-kunit-x86_64
#                               build/kmod-test[-kunit-x86_64]/, the modules of tests/kmod
#   scripts/build.sh tools      the ubctl that runs anywhere: statically linked
#   scripts/build.sh ubsnapd    containerd's snapshotter, statically linked too
#   scripts/build.sh programs   the tests' own C programs, static too
#   scripts/build.sh counter    build/counter/, which counts instructions in QEMU for `make bench`
# MO= keeps kbuild's outputs, and its clean, away from the sources.
. "$(dirname "$0")/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/build.sh "$@"

target=x86_64-unknown-linux-gnu

build_modules() {
	local tree
	tree=$("$TOP/scripts/kernel.sh")/tree
	make -C "$tree" M="$TOP" MO="$BUILD/kmod" -j"$(nproc)" modules
}

# UML's module loader supports neither the relocations of position-independent code nor a code model
# whose calls reach only 2 GiB.
build_own_modules() {
	local flavour=$1 arch=um tree flags=()
	tree=$("$TOP/scripts/kernel-kunit.sh" "${flavour#kunit-}")/tree
	case $flavour in
	*um | bench-*) flags=('RUSTFLAGS_MODULE=-Crelocation-model=static -Ccode-model=large') ;;
	*) arch=${flavour#kunit-} ;;
	esac
	make -C "$tree" ARCH="$arch" M="$TOP" MO="$BUILD/kmod-$flavour" -j"$(nproc)" "${flags[@]}" modules
}

build_test_modules() {
	local tree
	case $1 in
	kunit-*) tree=$("$TOP/scripts/kernel-kunit.sh" "${1#kunit-}")/tree ;;
	*) tree=$("$TOP/scripts/kernel.sh")/tree ;;
	esac
	make -C "$tree" M="$TOP/tests/kmod" MO="$BUILD/kmod-test${1:+-$1}" -j"$(nproc)" modules
}

# build_static PACKAGE
build_static() {
	RUSTFLAGS='-C target-feature=+crt-static' CARGO_TARGET_DIR=$BUILD/cargo \
		cargo build --release --locked --target $target -p "$1"
}

build_programs() {
	local source program
	mkdir -p "$BUILD/programs"
	for source in "$TOP"/tests/vm/src/*.c; do
		[ -e "$source" ] || continue
		program=$BUILD/programs/$(basename "$source" .c)
		# The program is newer than its source and all headers.
		[ -e "$program" ] && [ -z "$(find "$source" "$TOP"/tests/vm/src/*.h "$TOP/include" \
			"$TOP/scripts/build.sh" -newer "$program")" ] && continue
		gcc -O2 -Wall -Wextra -Werror -static -I"$TOP/include" -o "$program" "$source"
	done
}

build_counter() {
	local name
	mkdir -p "$BUILD/counter"
	for name in counter mark; do
		gcc -O2 -Wall -Wextra -Werror -fPIC -shared -fvisibility=default -o "$BUILD/counter/$name.so" \
			"$TOP/bench/plugin/$name.c"
	done
}

# Two builds at once would overwrite each other's objects. The lock ends with this shell; the
# commands that it starts do not hold it.
exec 9>"$BUILD/lock"
flock 9
for what; do
	case $what in
	modules)
		"$TOP/scripts/kernel.sh" >/dev/null
		stage "build unionblk.ko for the stock kernel" build_modules
		;;
	modules-kunit-*)
		"$TOP/scripts/kernel-kunit.sh" "${what#modules-kunit-}" >/dev/null
		stage "build unionblk.ko for KUnit (${what#modules-kunit-})" build_own_modules "${what#modules-}"
		;;
	modules-bench-*)
		"$TOP/scripts/kernel-kunit.sh" "${what#modules-}" >/dev/null
		stage "build unionblk.ko for the kernel of make bench (${what#modules-bench-})" build_own_modules "${what#modules-}"
		;;
	test-modules*)
		flavour=${what#test-modules}
		stage "build the tests' own module${flavour/-/ for }" build_test_modules "${flavour#-}"
		;;
	tools) stage "build ubctl" build_static ubctl ;;
	ubsnapd) stage "build ubsnapd" build_static ubsnapd ;;
	programs) stage "build the tests' programs" build_programs ;;
	counter) stage "build the counter of instructions" build_counter ;;
	*)
		die "cannot build '$what': modules, modules-kunit-x86_64, modules-kunit-um, modules-bench-up," \
			"modules-bench-smp, test-modules, tools, ubsnapd, programs or counter"
		;;
	esac
done
