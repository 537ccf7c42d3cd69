#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Tests the packages of make deb: two builds, Debian's policy, DKMS, and a life in a guest under
# systemd: installed by apt, used, rebooted, used again, removed.
#   tests/deb/run.sh [PART]...    default: packages dkms guest
# Each case is a line "passed: NAME" or "FAILED: NAME".
# shellcheck disable=SC2317 # case_of calls functions by their names
. "$(dirname "$0")/../../scripts/lib.sh"
. "$TOP/scripts/series.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/deb/run.sh "$@"

dir=$BUILD/deb-test
failed=0
case_of() {
	local name=$1 log=$BUILD/log/deb-${2##*/}.out
	shift
	if "$@" >"$log" 2>&1; then say "passed: $name"; return; fi
	say "FAILED: $name"
	tail -n 60 "$log" | sed 's/^/   | /'
	failed=1
}

# Builds everything once more in an empty build directory, which lies where the other one does.
again() {
	local sums
	sums=$(cd "$BUILD/deb" && sha256sum -- *)
	rm -rf "$dir/again"
	mkdir -p "$dir/again"
	unshare --mount --propagation private sh -c "mount --bind '$dir/again' '$BUILD' && scripts/deb.sh" || return
	diff <(echo "$sums") <(cd "$dir/again/deb" && sha256sum -- *) || return
	rm -rf "$dir/again"
}

packages() {
	case_of "two builds give the same bytes" again
	case_of "the packages are as Debian's policy wants them" tests/deb/check.sh
}

# The repository: ours, and Debian's own modules of the stock kernel, without which apt would not
# install ours.
repository() {
	local release=$1 kept=$CACHE/deb-$1
	if [ ! -d "$kept" ]; then
		rm -rf "$kept.part"
		mkdir -p "$kept.part"
		apt-get update
		(cd "$kept.part" && apt-get download "linux-modules-$release" "linux-base-$release")
		mv "$kept.part" "$kept"
	fi
	rm -rf "$dir/repo" "$dir/vdb"
	mkdir -p "$dir/repo"
	cp "$kept"/*.deb "$BUILD"/deb/*.deb "$dir/repo/"
	(cd "$dir/repo" && dpkg-scanpackages --multiversion . >Packages)
	[ ! -e "$dir/dkms/unionblk.ko" ] || install -D -t "$dir/repo/dkms" "$dir/dkms/unionblk.ko"
	truncate -s 128M "$dir/vdb"
	mke2fs -q -t ext4 -d "$dir/repo" "$dir/vdb"
}

# boot JOB RELEASE
boot() {
	local log=$BUILD/log/deb-$1.out code=0
	"$TOP/scripts/vm.sh" -n "deb-$1" -t 1500 -a rdinit=/vm/guest/init -d "$dir/vda" -d "$dir/vdb,ro" \
		-f "$TOP/tests/deb/guest:guest" -- sh "guest/$1" "$2" >"$log" 2>&1 || code=$?
	sed -n 's/^FAIL: /FAILED: /p; /^passed: /p' "$log" | tr -d '\r'
	[ $code != 0 ] || return 0
	say "FAILED: the $1 boot: status $code"
	tail -n 60 "$log" | sed 's/^/   | /'
	failed=1
}

guest() {
	local release image
	release=$(cat "$("$TOP/scripts/kernel.sh")/release")
	image=$("$TOP/scripts/image-systemd.sh")
	repository "$release" >"$BUILD/log/deb-repository.out" 2>&1
	cp --sparse=always "$image" "$dir/vda"
	boot first "$release"
	[ $failed != 0 ] || boot second "$release"
	rm -f "$dir/vda" "$dir/vdb"
}

mkdir -p "$dir" "$BUILD/log"
scripts/deb.sh
[ $# -gt 0 ] || set -- packages dkms guest
for part; do
	case $part in
	packages) packages ;;
	dkms) case_of "unionblk-dkms says what it lacks, builds, and leaves nothing" tests/deb/dkms.sh ;;
	guest) guest ;;
	*) die "no part $part: packages, dkms or guest" ;;
	esac
done
exit $failed
