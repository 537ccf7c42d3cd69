#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds the KUNIT=y kernel that the KUnit suites run on, from the same source
# as the stock one: for x86_64 (in QEMU) or um (User-Mode Linux, quick loop).
# Runs inside the build root; prints the build folder, a KDIR of its own.
#   scripts/kernel-kunit.sh x86_64|um
. "$(dirname "$0")/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/kernel-kunit.sh "$@"

arch=${1:?x86_64 or um}
case $arch in
x86_64) target=bzImage image=arch/x86/boot/bzImage ;;
um) target=linux image=linux ;;
*) die "no architecture $arch: x86_64 or um" ;;
esac
kernel=$("$TOP/scripts/kernel.sh")
common=$TOP/tests/kunit/common.config
own=$TOP/tests/kunit/$arch.config
out=$CACHE/kunit-$arch-$(key "$kernel" "$common" "$own" "$TOP/scripts/kernel-kunit.sh")

build() {
	local part=$out.part m line
	rm -rf "$part"
	mkdir -p "$part/src"
	# A tree of its own: a prepared source cannot also build out of tree.
	cp -al "$kernel/tree" "$part/tree"
	make -C "$part/tree" ARCH="$arch" mrproper
	rm -f "$part/tree/Module.symvers"
	m=(make -C "$part/tree" ARCH="$arch" -j"$(nproc)")
	cat "$common" "$own" >"$part/fragment"
	"${m[@]}" KCONFIG_ALLCONFIG="$part/fragment" allnoconfig
	# An option that did not take is a test that would not run.
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

# Two that want it at once: the second waits and finds it made.
exec 9>"$CACHE/kunit-$arch.lock"
flock 9
if [ ! -d "$out" ]; then
	stage "kernel with KUnit for $arch: build" build >&2
fi
printf '%s\n' "$out"
