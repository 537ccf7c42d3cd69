#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds containerd's own suite of snapshotters, unmodified, from Debian's packages of its
# source, with the test in tests/containers/suite. Runs inside the build root; prints
# the path of the program, which is statically linked.
. "$(dirname "$0")/lib.sh"
. "$TOP/scripts/series.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/snapshot-suite.sh "$@"

package=golang-github-containerd-containerd-dev

# The newest version is resolved once and kept until UPDATE=1 resolves it again.
resolve() {
	local kept=$CACHE/containerd-$SUITE
	if [ ! -s "$kept" ] || [ -n "${UPDATE:-}" ]; then
		apt-get update >&2
		apt-cache show --no-all-versions $package | sed -n 's/^Version: //p' >"$kept.part"
		mv "$kept.part" "$kept"
	fi
	cat "$kept"
}

version=$(resolve)
[ -n "$version" ] || die "the archive has no $package"
out=$CACHE/snapshot-suite-$(key "$version" "$TOP/scripts/snapshot-suite.sh" "$TOP"/tests/containers/suite/*.go)

# The packages are unpacked, not installed, because only this suite needs them.
fetch() {
	local d=$out.part list p
	rm -rf "$d"
	mkdir -p "$d/deb" "$d/tree"
	apt-get update
	mapfile -t list < <(apt-get install -qq --print-uris --no-install-recommends golang-go "$package=$version" |
		awk '$2 ~ /^golang/ { sub(/_.*/, "", $2); print $2 }')
	[ ${#list[@]} -gt 100 ] || die "apt names ${#list[@]} packages for $package $version"
	(cd "$d/deb" && apt-get download "${list[@]}")
	for p in "$d"/deb/*.deb; do dpkg-deb -x "$p" "$d/tree"; done
	rm -r "$d/deb"
}

compile() {
	local d=$out.part go
	go=$(echo "$d"/tree/usr/lib/go-*/bin/go)
	mkdir -p "$d/tree/usr/share/gocode/src/suite"
	cp "$TOP"/tests/containers/suite/*.go "$d/tree/usr/share/gocode/src/suite/"
	(cd "$d/tree/usr/share/gocode/src/suite" &&
		env GOROOT="${go%/bin/go}" GOPATH="$d/tree/usr/share/gocode" GOCACHE="$d/cache" GOFLAGS=-p=2 \
			GO111MODULE=off CGO_ENABLED=0 "$go" test -c -ldflags '-s -w' -o "$d/suite.test" suite)
	rm -rf "$d/tree" "$d/cache"
	mv "$d" "$out"
}

if [ ! -d "$out" ]; then
	stage "containerd's suite $version: fetch" fetch >&2
	stage "containerd's suite $version: build" compile >&2
fi
printf '%s\n' "$out/suite.test"
