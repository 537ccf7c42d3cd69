#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes the disk that the tests with containerd read: the programs of Debian's packages, and the
# directory of a registry with two images. umoci makes the images, and skopeo pushes them to the
# registry. Runs inside the build root; prints the path of the disk.
. "$(dirname "$0")/lib.sh"
. "$TOP/scripts/series.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/container-programs.sh "$@"

packages=(containerd runc docker-registry umoci skopeo)
libraries=(libseccomp2 libgpgme11t64 libassuan9 libgpg-error0 libsqlite3-0)
# The size of the large file in both images, in MiB.
big_mib=${BIG_MIB:-16}

# The newest versions are resolved once and kept until UPDATE=1 resolves them again.
resolve() {
	local kept=$CACHE/container-packages-$SUITE p
	if [ ! -s "$kept" ] || [ -n "${UPDATE:-}" ]; then
		apt-get update >&2
		for p in "${packages[@]}" "${libraries[@]}"; do
			printf '%s=%s\n' "$p" "$(apt-cache show --no-all-versions "$p" | sed -n 's/^Version: //p')"
		done >"$kept.part"
		mv "$kept.part" "$kept"
	fi
	cat "$kept"
}

mapfile -t versions < <(resolve)
out=$CACHE/container-programs-$(key "$big_mib" "$TOP/scripts/container-programs.sh" "$TOP/tests/containers/guest/registry.yml" "${versions[@]}").img
work=$out.part

# The packages are unpacked, not installed, because only these tests need them.
fetch() {
	local p
	rm -rf "$work"
	mkdir -p "$work"/{deb,tree,disk/bin,disk/lib,disk/registry}
	(cd "$work/deb" && apt-get download "${versions[@]}")
	for p in "$work"/deb/*.deb; do dpkg-deb -x "$p" "$work/tree"; done
	for p in bin/{containerd,containerd-shim-runc-v2,ctr,docker-registry} sbin/runc; do
		install -t "$work/disk/bin" "$work/tree/usr/$p"
	done
	cp "$work"/tree/usr/lib/x86_64-linux-gnu/libseccomp.so.2 "$work/disk/lib/"
}

tool() { LD_LIBRARY_PATH=$work/tree/usr/lib/x86_64-linux-gnu "$work/tree/usr/bin/$1" "${@:2}"; }

# layer NAME COMMAND...: adds a layer to an image: what the command changes in its file system,
# in which it runs.
layer() {
	local image=$work/layout:$1 bundle=$work/bundle
	rm -rf "$bundle"
	tool umoci unpack --image "$image" "$bundle"
	(cd "$bundle/rootfs" && "${@:2}")
	tool umoci repack --image "$image" "$bundle"
}

base() {
	local name
	mkdir -p bin etc proc sys dev tmp root srv
	cp "$(command -v busybox)" bin/busybox
	for name in sh cat dd echo ls sleep sync sha256sum stat grep mkdir rm id; do ln -s busybox "bin/$name"; done
	echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
}
# The file is of text that gzip packs well, because the test is not about the network.
big() { yes 'what an image holds' | head -c "${big_mib}M" >srv/big || [ "$?" = 141 ]; }
small() {
	local n
	echo "$1" >etc/image
	mkdir -p "srv/$1"
	for n in $(seq 50); do echo "$1 $n" >"srv/$1/$n"; done
}
# A layer may also take a file of a lower layer away.
without() { rm "srv/$1/50"; echo more >"srv/$1/more"; }

images() {
	tool umoci init --layout "$work/layout"
	tool umoci new --image "$work/layout:one"
	layer one base
	tool umoci tag --image "$work/layout:one" two
	layer one big
	layer one small one
	layer one without one
	layer two small two
	layer two big
	local name
	for name in one two; do
		tool umoci config --image "$work/layout:$name" --config.cmd /bin/sh
	done
}

# The registry of this script has a network without any other machine.
push() {
	local registry tries=0 name
	busybox ip link set lo up
	sed "s,@ROOT@,$work/disk/registry," "$TOP/tests/containers/guest/registry.yml" >"$work/registry.yml"
	tool docker-registry serve "$work/registry.yml" &
	registry=$!
	until busybox wget -q -O /dev/null http://127.0.0.1:5000/v2/ || [ $tries = 100 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
	for name in one two; do
		tool skopeo --insecure-policy copy --dest-tls-verify=false \
			"oci:$work/layout:$name" "docker://127.0.0.1:5000/$name:latest"
	done
	kill "$registry"
	wait "$registry" || true
}

disk() {
	truncate -s 512M "$work/disk.img"
	mke2fs -q -t ext4 -O ^has_journal -d "$work/disk" -F "$work/disk.img"
	mv "$work/disk.img" "$out"
	rm -r "$work"
}

if [ "${1:-}" = push ]; then
	push
elif [ ! -e "$out" ]; then
	stage "containerd and a registry: fetch" fetch >&2
	stage "two images for the registry" images >&2
	stage "push the images" unshare --net "$0" push >&2
	stage "the disk of containerd and the registry" disk >&2
fi
[ "${1:-}" = push ] || printf '%s\n' "$out"
