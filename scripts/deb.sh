#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds Debian packages of what make install installs, into build/deb, which is an apt
# repository too:
#   ubctl, ubsnapd, unionblk-modules-RELEASE for the stock kernel, and unionblk-dkms
# The files that go into them are in scripts/deb. Two builds of one commit give the same bytes.
#
# dpkg-gencontrol and dpkg-deb of the build root do the work. debhelper would add two dozen
# packages to the build root, of which three of its programs would be used here: most of what
# debhelper does is for a package that dpkg-buildpackage builds with its build dependencies
# from the archive, and these programs need the crates of Cargo.lock and the kernel tree of
# scripts/kernel.sh. There is no directory debian/ for the same reason: it would promise that
# dpkg-buildpackage works, and it belongs to the maintainers of a distribution.
. "$(dirname "$0")/lib.sh"
. "$TOP/scripts/series.sh"
[ -n "${UNIONBLK_IN_ROOT:-}" ] || exec "$TOP/scripts/in-root.sh" scripts/deb.sh "$@"
umask 022

from=$TOP/scripts/deb out=$BUILD/deb work=$BUILD/deb.part
ko=$BUILD/kmod/unionblk.ko
programs=$BUILD/cargo/x86_64-unknown-linux-gnu/release
git() { command git -c safe.directory='*' -C "$TOP" "$@"; }

# Prints the version: that of Cargo.toml for a release, else one before it that grows
# with each commit.
debian_version() {
	local version commit
	version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$TOP/Cargo.toml")
	if ! git tag --points-at HEAD | grep -qx "v$version"; then
		commit=$(git rev-parse --short=7 HEAD)
		version=$version~git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).$commit
	fi
	[ -z "$(git status --porcelain --untracked-files=no)" ] || version=$version.changed
	printf '%s-1\n' "$version"
}

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) || die "make deb takes the time and the version from git: there is no repository here"
export SOURCE_DATE_EPOCH
version=$(debian_version)
upstream=${version%-1}

# fill FILE: with the values of this build
fill() {
	sed "s|@VERSION@|$upstream|g; s|@RELEASE@|$release|g; s|@SERIES@|$SERIES|g; s|@SERIES_PATTERN@|${SERIES/./\\\\.}|g" "$1"
}

# What make install installs, sorted into the packages. A file that is not named here is
# ubctl's.
sort_files() {
	local all=$work/ubctl modules=$work/unionblk-modules-$release ubsnapd=$work/ubsnapd
	"$TOP/scripts/install.sh" "$ko" "$programs/ubctl" /usr "$all" "$programs/ubsnapd"
	mkdir -p "$modules/usr" "$ubsnapd"/usr/{sbin,lib/systemd/system,share/man/man8,share/doc/ubsnapd/examples}
	mv "$all/lib" "$modules/usr/lib"
	mv "$all/usr/sbin/ubsnapd" "$ubsnapd/usr/sbin/"
	mv "$all/usr/lib/systemd/system/ubsnapd.service" "$ubsnapd/usr/lib/systemd/system/"
	# Debian's zsh looks here, and its site-functions are for the administrator.
	mv "$all/usr/share/zsh/site-functions" "$all/usr/share/zsh/vendor-completions"
	strip --strip-debug "$modules/usr/lib/modules/$release/updates/unionblk.ko"
	strip --strip-unneeded --remove-section=.comment "$all/usr/sbin/ubctl" "$ubsnapd/usr/sbin/ubsnapd"
	install -m 644 "$TOP/tools/ubsnapd/containerd-config.toml" "$ubsnapd/usr/share/doc/ubsnapd/examples/"
	install -m 644 "$TOP/Documentation/containers.rst" "$ubsnapd/usr/share/doc/ubsnapd/"
}

# The pages bear the date of the commit. docs.sh, which writes that of the day, checks them.
man_pages() {
	local page package
	PYTHONDONTWRITEBYTECODE=1 sphinx-build -q -W -b man -d "$work/doctrees" "$TOP/Documentation" "$work/man"
	for page in "$work"/man/*.[0-9]; do
		package=ubctl
		[[ $page != */ubsnapd.* ]] || package=ubsnapd
		install -D -m 644 "$page" "$work/$package/usr/share/man/man${page##*.}/${page##*/}"
	done
	rm -rf "$work"/{man,doctrees}
}

# The sources that kbuild needs, and what prepares a kernel tree for them.
dkms() {
	local to=$work/unionblk-dkms/usr/src/unionblk-$upstream path
	while read -r path; do
		install -D -m 644 "$TOP/$path" "$to/$path"
	done < <(git ls-files Kbuild Cargo.toml include rust scripts/series.sh)
	install -D -m 755 -t "$to/scripts" "$TOP/scripts/check-kernel.sh" "$from/dkms-build"
	fill "$from/dkms.conf" >"$to/dkms.conf"
}

# Lists the crates that are linked into a program, with their licences.
crates() {
	cargo tree --locked --target x86_64-unknown-linux-gnu -p "$1" -e normal,no-proc-macro --prefix none --format '{p}: {l}' |
		sed 's| (/.*)||; s| (\*)$||' | LC_ALL=C sort -u
}

# pack PACKAGE [SCRIPTS]: adds what Debian's policy wants in each package, and builds it.
pack() {
	local tree=$work/$1 scripts=${2:-$1} doc=$work/$1/usr/share/doc/$1 file
	install -D -m 644 "$from/copyright" "$doc/copyright"
	gzip -9nc "$TOP/CHANGELOG.md" >"$doc/changelog.gz"
	gzip -9nc "$work/changelog" >"$doc/changelog.Debian.gz"
	[ ! -x "$tree/usr/sbin/$1" ] || crates "$1" >"$doc/crates"
	if [ -d "$tree/usr/share/man" ]; then find "$tree/usr/share/man" -type f -exec gzip -9n {} +; fi
	mkdir "$tree/DEBIAN"
	for file in preinst postinst prerm postrm triggers; do
		[ -e "$from/$scripts.$file" ] || continue
		fill "$from/$scripts.$file" >"$tree/DEBIAN/$file"
		[ "$file" = triggers ] || chmod 755 "$tree/DEBIAN/$file"
	done
	(cd "$tree" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
	(cd "$work" && dpkg-gencontrol -p"$1" -ccontrol -lchangelog -ffiles -Tsubstvars -P"$tree")
	find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	# With several threads xz would cut its input, and the cuts depend on the memory.
	dpkg-deb --root-owner-group --threads-max=1 -Zxz --build "$tree" "$out.new"
}

packages() {
	local maintainer
	rm -rf "$work" "$out.new"
	mkdir -p "$work" "$out.new"
	maintainer=$(sed -n 's/^Maintainer: //p' "$from/control")
	fill "$from/control" >"$work/control"
	: >"$work/substvars"
	printf 'unionblk (%s) trixie; urgency=medium\n\n  * See changelog.gz.\n\n -- %s  %s\n' \
		"$version" "$maintainer" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" >"$work/changelog"
	sort_files
	man_pages
	dkms
	pack ubctl
	pack ubsnapd
	pack "unionblk-modules-$release" unionblk-modules
	pack unionblk-dkms
	(cd "$out.new" && dpkg-scanpackages --multiversion . >Packages)
	rm -rf "$work" "$out"
	mv "$out.new" "$out"
}

"$TOP/scripts/build.sh" modules tools ubsnapd
"$TOP/scripts/check-version.sh" "$(modinfo -F version "$ko")" "$("$programs/ubctl" --version | cut -d' ' -f2)"
release=$(modinfo -F vermagic "$ko" | cut -d' ' -f1)
stage "Debian packages $version" packages
say "built build/deb, an apt repository:"
(cd "$out" && du -k --apparent-size -- *.deb | sed 's/^/   /; s/\t/ KiB\t/')
