#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Measures scenes of use at native speed: file work with dd and dpkg, a small
# change of a large file beside overlayfs, many unions of one root, a large
# leaf, 128 layers. Runs inside the build root; writes FILE, which report.py reads.
#   bench/scenes.sh FILE [files|change|many|large|layers]...
. "$(dirname "$0")/../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" bench/scenes.sh "$@"

file=${1:?where to}
shift
[ $# -gt 0 ] || set -- files change many large layers
work=$BUILD/bench
mkdir -p "$work"

# Makes a package of some thousand small files.
make_package() {
	local d
	[ ! -s "$work/work.deb" ] || return 0
	d=$(mktemp -d)
	mkdir -p "$d/DEBIAN" "$d/opt/work"
	printf '%s\n' 'Package: leaf-work' 'Version: 1.0' 'Architecture: all' \
		'Maintainer: unionblk <root@localhost>' 'Description: files to unpack' >"$d/DEBIAN/control"
	cp -r /usr/share/perl /usr/share/zoneinfo /usr/share/mime "$d/opt/work/" 2>/dev/null || true
	[ "$(find "$d/opt/work" -type f | wc -l)" -gt 1000 ] || die "the build root has too few files for the scene"
	dpkg-deb --root-owner-group -Znone --build "$d" "$work/work.deb" >/dev/null
	rm -r "$d"
}

"$TOP/scripts/build.sh" tools programs modules-bench-up
options=()
case " $* " in *" files "*)
	options+=(-a "ubd0r=$("$TOP/scripts/image.sh")/root.img" -f "$work/work.deb")
	make_package
	;;
esac
nice -n -20 "$TOP/scripts/uml.sh" -n scenes -m 6144 -c 1 -t 3600 "${options[@]}" \
	-f "$TOP/bench/guest:guest" -f "$BUILD/programs/sectors" -f "$BUILD/programs/json" \
	-f "$BUILD/cargo/x86_64-unknown-linux-gnu/release/ubctl" \
	-w "python3 -B $TOP/bench/cpu.py $work/cpu-scenes" \
	-f "$BUILD/kmod-bench-up/unionblk.ko" -- bash guest/scenes.sh "$@" | tee "$work/scenes.out"
[ "${PIPESTATUS[0]}" = 0 ] || die "a scene failed"
python3 -B "$TOP/bench/scenes.py" "$work/scenes.out" "$file"
