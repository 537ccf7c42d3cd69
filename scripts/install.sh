#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Installs what was built: the module where its kernel looks for it, ubctl into
# PREFIX/sbin, the udev rule where udev looks, the unit that detaches unions at
# shutdown and the generator of the units of ubtab where systemd looks, the man pages, and the completions where bash,
# zsh and fish look. If ubsnapd is given, it and its unit are installed too. make
# install calls it.
. "$(dirname "$0")/lib.sh"

module=$1 tool=$2 prefix=$3 destdir=$4 snapshotter=${5:-}
[ -n "$module" ] || die "no unionblk.ko has been built: make modules (or make KDIR=... modules)"
[ -n "$tool" ] || die "no ubctl has been built: make tools"
for program in modinfo depmod; do
	command -v "$program" >/dev/null ||
		die "$program is missing, which make install needs: apt install kmod, or put /usr/sbin into PATH"
done
release=$(modinfo -F vermagic "$module" | cut -d' ' -f1)
[ -n "$release" ] || die "$module does not say which kernel it is for"

to=$destdir/lib/modules/$release/updates
install -D -m 644 "$module" "$to/unionblk.ko"
install -D -m 755 "$tool" "$destdir$prefix/sbin/ubctl"
install -D -m 644 "$TOP/include/uapi/unionblk.h" "$destdir$prefix/include/unionblk.h"
install -D -m 644 "$TOP/tools/udev/60-unionblk.rules" "$destdir$prefix/lib/udev/rules.d/60-unionblk.rules"
units=$destdir$prefix/lib/systemd/system
install -d "$units/sysinit.target.wants"
sed "s|@PREFIX@|$prefix|" "$TOP/tools/systemd/unionblk.service" >"$units/unionblk.service"
chmod 644 "$units/unionblk.service"
if [ -n "$snapshotter" ]; then
	install -D -m 755 "$snapshotter" "$destdir$prefix/sbin/ubsnapd"
	sed "s|@PREFIX@|$prefix|" "$TOP/tools/systemd/ubsnapd.service" >"$units/ubsnapd.service"
	chmod 644 "$units/ubsnapd.service"
fi
ln -sf ../unionblk.service "$units/sysinit.target.wants/unionblk.service"
# The tool is the generator, under this name.
generators=$destdir$prefix/lib/systemd/system-generators
install -d "$generators"
ln -sf ../../../sbin/ubctl "$generators/unionblk-generator"
share=$destdir$prefix/share
for page in ubctl.8 ubtab.5 unionblk.5 ${snapshotter:+ubsnapd.8}; do
	if [ -f "$BUILD/docs/man/$page" ]; then
		install -D -m 644 "$BUILD/docs/man/$page" "$share/man/man${page##*.}/$page"
	else
		say "note: the man page $page has not been built: make docs"
	fi
done
# completion SHELL FILE
completion() {
	install -d "${2%/*}"
	"$tool" completions "$1" >"$2"
	chmod 644 "$2"
}
completion bash "$share/bash-completion/completions/ubctl"
completion zsh "$share/zsh/site-functions/_ubctl"
completion fish "$share/fish/vendor_completions.d/ubctl.fish"
if [ -e "$destdir/lib/modules/$release/modules.order" ] || [ -e "$destdir/lib/modules/$release/modules.dep" ]; then
	depmod ${destdir:+-b "$destdir"} "$release"
else
	say "note: kernel $release is not installed here; run 'depmod $release' where it is"
fi
say "installed $to/unionblk.ko, $destdir$prefix/sbin/ubctl"
[ -n "$destdir" ] || [ ! -d /run/systemd/system ] ||
	say "note: until the next boot unions are not detached at shutdown; for this one:" \
		"systemctl daemon-reload && systemctl start unionblk.service"
[ "$release" = "$(uname -r)" ] || say "note: the module is for kernel $release, this machine runs $(uname -r)"
