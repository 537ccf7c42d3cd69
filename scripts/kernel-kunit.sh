#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds a kernel with our configuration from the same source as the stock
# kernel: KUNIT=y for x86_64 (in QEMU) or um (User-Mode Linux, quick loop), or
# a kernel of `make bench`, User-Mode Linux without any debug option, for one
# processor (bench-up) or several (bench-smp). Runs inside the build root; prints
# the build directory, which is a separate KDIR.
#   scripts/kernel-kunit.sh x86_64|um|bench-up|bench-smp
. "$(dirname "$0")/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/kernel-kunit.sh "$@"

flavour=${1:?x86_64, um, bench-up or bench-smp}
arch=um target=linux image=linux
configs=("$TOP/tests/kunit/common.config" "$TOP/tests/kunit/$flavour.config")
name=kunit-$flavour what="KUnit for $flavour"
case $flavour in
x86_64) arch=x86_64 target=bzImage image=arch/x86/boot/bzImage ;;
um) ;;
bench-up) configs=("$TOP/bench/um.config") name=$flavour what="nothing but speed, one processor" ;;
bench-smp) configs=("$TOP/bench/um.config" "$TOP/bench/smp.config") name=$flavour what="nothing but speed, two processors" ;;
*) die "no kernel $flavour: x86_64, um, bench-up or bench-smp" ;;
esac
kernel=$("$TOP/scripts/kernel.sh")
out=$CACHE/$name-$(key "$kernel" "${configs[@]}" "$TOP/scripts/kernel-kunit.sh")

build() {
	local part=$out.part m line
	rm -rf "$part"
	mkdir -p "$part/src"
	# This needs a separate tree, because a prepared source cannot also
	# build out of tree.
	cp -al "$kernel/tree" "$part/tree"
	make -C "$part/tree" ARCH="$arch" mrproper
	rm -f "$part/tree/Module.symvers"
	m=(make -C "$part/tree" ARCH="$arch" -j"${JOBS:-$(nproc)}")
	cat "${configs[@]}" >"$part/fragment"
	"${m[@]}" KCONFIG_ALLCONFIG="$part/fragment" allnoconfig
	# If an option is missing from the config, a test would not run.
	while read -r line; do
		case $line in
		'#'* | '' | *=n) ;;
		*) grep -qxF "$line" "$part/tree/.config" || { echo "did not take: $line"; grep -E "${line%%=*}[= ]" "$part/tree/.config" || true; exit 1; } ;;
		esac
	done <"$part/fragment"
	"${m[@]}" "$target" modules
	cp "$part/tree/$image" "$part/image"
	rmdir "$part/src"
	mv "$part" "$out"
}

# If two scripts need the kernel at once, the second one waits and finds it
# made.
exec 9>"$CACHE/$name.lock"
flock 9
if [ ! -d "$out" ]; then
	stage "kernel with $what: build" build >&2
fi
printf '%s\n' "$out"
