#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Checks what Debian's policy wants of the packages in build/deb, without lintian, which the
# build root does not have. Prints each breach and fails if there is one.
#   tests/deb/check.sh
. "$(dirname "$0")/../../scripts/lib.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" tests/deb/check.sh "$@"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
breaches=0
breach() {
	say "$name: $*"
	breaches=$((breaches + 1))
}
field() { dpkg-deb -f "$deb" "$1"; }

# Owners, modes and places, from the archive.
contents() {
	local mode owner path
	while read -r mode owner _ _ _ path; do
		[ "$owner" = root/root ] || breach "$path belongs to $owner"
		case $mode in
		drwxr-xr-x | -rw-r--r-- | -rwxr-xr-x | lrwxrwxrwx) ;;
		*) breach "$path has the mode $mode" ;;
		esac
		case $path in
		./ | ./usr/ | ./usr/sbin/* | ./usr/include/* | ./usr/src/* | ./usr/lib/* | ./usr/share/*) ;;
		*) breach "$path is in a place where no package of ours has files" ;;
		esac
	done < <(dpkg-deb --contents "$deb")
}

control() {
	local want script
	for want in Package Version Architecture Maintainer Section Priority Installed-Size Description; do
		[ -n "$(field $want)" ] || breach "no field $want"
	done
	[[ $(field Description | head -n 1) =~ ^[a-z].{10,79}$ ]] || breach "the first line of Description"
	[ "$(field Description | awk 'length > 80' | wc -l)" = 0 ] || breach "a line of Description has more than 80 columns"
	for script in preinst postinst prerm postrm; do
		[ -e "$tree/DEBIAN/$script" ] || continue
		sh -n "$tree/DEBIAN/$script" || breach "$script is no shell script"
		grep -qx 'set -e' "$tree/DEBIAN/$script" || breach "$script continues after an error"
		! grep -q '@[A-Z_]*@' "$tree/DEBIAN/$script" || breach "$script has a value that is not filled in"
	done
	(cd "$tree" && md5sum --quiet -c DEBIAN/md5sums) || breach "md5sums do not match"
	[ "$(wc -l <"$tree/DEBIAN/md5sums")" = "$(find "$tree/usr" -type f | wc -l)" ] || breach "md5sums do not have all files"
}

documents() {
	local doc=$tree/usr/share/doc/$name file program
	for file in copyright changelog.gz changelog.Debian.gz; do
		[ -s "$doc/$file" ] || breach "no $file"
	done
	while read -r file; do
		# Bytes 4 to 7 are the time.
		[ "$(od -An -tu4 -j4 -N4 "$file" | tr -d ' ')" = 0 ] || breach "${file#"$tree"} has a time in it"
	done < <(find "$tree" -name '*.gz')
	for program in "$tree"/usr/sbin/*; do
		[ -e "$program" ] || continue
		[ -s "$tree/usr/share/man/man8/${program##*/}.8.gz" ] || breach "no man page of ${program##*/}"
		! readelf -SW "$program" | grep -qE '\.(debug_|symtab)' || breach "${program##*/} is not stripped"
	done
	dpkg-deb --fsys-tarfile "$deb" | tar -tv --full-time | awk -v epoch="$epoch" '{ print $4 " " $5 }' |
		sort -u | while read -r when; do [ "$(date -d "$when" +%s)" = "$epoch" ] || echo "$when"; done >"$work/times"
	[ ! -s "$work/times" ] || breach "files with another time than the commit: $(head -n 1 "$work/times")"
}

epoch=$(git -c safe.directory='*' -C "$TOP" log -1 --format=%ct)
count=0
for deb in "$BUILD"/deb/*.deb; do
	name=$(field Package) tree=$work/$(field Package)
	dpkg-deb -R "$deb" "$tree"
	contents
	control
	documents
	if compgen -G "$tree/usr/lib/udev/rules.d/*.rules" >/dev/null; then
		udevadm verify --no-style "$tree"/usr/lib/udev/rules.d/*.rules >"$work/udev" || { cat "$work/udev"; breach "udevadm verify"; }
	fi
	count=$((count + 1))
done
[ $count = 4 ] || { say "$count packages instead of 4"; breaches=1; }
say "checked $count packages"
[ $breaches = 0 ]
