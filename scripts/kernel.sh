#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Fetches Debian's stock kernel and prepares a source tree of exactly the same
# build, so that a Rust module built against it loads on the unmodified kernel.
# Runs inside the build root; prints the path of a directory with
#   tree/     prepared source: the KDIR of a module build
#   stock/    vmlinuz, modules, config as shipped
#   release   the kernel's release string
. "$(dirname "$0")/lib.sh"
. "$TOP/scripts/series.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/kernel.sh "$@"

# Point releases replace each other in the archive. The newest is resolved once
# and kept until UPDATE=1 resolves it again.
resolve() {
	if [ -s "$CACHE/release-$SERIES-$FLAVOUR" ] && [ -z "${UPDATE:-}" ]; then
		cat "$CACHE/release-$SERIES-$FLAVOUR"
		return
	fi
	apt-get update >&2
	apt-cache search --names-only "^linux-modules-$SERIES\\.[0-9]+.*-$FLAVOUR\$" |
		awk '{ sub(/^linux-modules-/, "", $1); print $1 }' |
		grep -E "^$SERIES\\.[0-9]+\\+[a-z0-9]+-$FLAVOUR\$" |
		sort -V | tail -n 1 | tee "$CACHE/release-$SERIES-$FLAVOUR"
}

release=$(resolve)
[ -n "$release" ] || die "the archive has no linux-modules-$SERIES.*-$FLAVOUR: has the series ended? See scripts/series.sh"
rustc=$(rustc --version)
# The only binary package of the image: the signed one if there is one, else the
# unsigned one.
out=$CACHE/kernel-$(key "$release" "$rustc" "$TOP/scripts/kernel.sh")

fetch() {
	local d=$out.part p list=()
	rm -rf "$d"
	mkdir -p "$d/deb" "$d/stock" "$d/src"
	apt-get update
	for p in "linux-binary-$release" "linux-binary-unsigned-$release"; do
		if apt-cache show "$p" >/dev/null 2>&1; then list=("$p"); break; fi
	done
	[ ${#list[@]} = 1 ] || die "no linux-binary package of $release in the archive"
	list+=("linux-modules-$release" "linux-base-$release" "linux-headers-$release" "linux-source-$SERIES")
	(cd "$d/deb" && apt-get -t "$SUITE-backports" download "${list[@]}")
	for p in "$d"/deb/*.deb; do dpkg-deb -x "$p" "$d/stock"; done
	rm -rf "$d/deb"
}

unpack_tree() {
	local d=$out.part
	tar -C "$d/src" -xf "$d/stock/usr/src/linux-source-$SERIES.tar.xz"
	mv "$d/src/linux-source-$SERIES" "$d/tree"
	rm -r "$d/src" "$d/stock/usr/src/linux-source-$SERIES.tar.xz"
	cp "$d/stock/usr/lib/modules/$release/config" "$d/tree/.config"
}

# The release string equals the stock one: the version of the tree, with
# everything behind it as LOCALVERSION.
prepare_tree() {
	local d=$out.part version
	version=$(make -s -C "$d/tree" kernelversion)
	make -C "$d/tree" "LOCALVERSION=${release#"$version"}" olddefconfig
	make -C "$d/tree" -j"$(nproc)" "LOCALVERSION=${release#"$version"}" modules_prepare
	cp "$d/stock/usr/src/linux-headers-$release/Module.symvers" "$d/tree/"
	[ "$(cat "$d/tree/include/config/kernel.release")" = "$release" ] ||
		die "the tree calls itself $(cat "$d/tree/include/config/kernel.release"), the stock kernel $release"
	grep -q '^CONFIG_RUST=y' "$d/tree/.config" || die "CONFIG_RUST is off in the prepared tree: see scripts/check-kernel.sh $d/tree"
	printf '%s\n' "$release" >"$d/release"
	mv "$d" "$out"
}

if [ ! -d "$out" ]; then
	stage "kernel $release: fetch" fetch >&2
	stage "kernel $release: unpack the source" unpack_tree >&2
	stage "kernel $release: prepare for Rust modules" prepare_tree >&2
fi
printf '%s\n' "$out"
