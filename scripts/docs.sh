#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds the pages of Documentation/ with Sphinx, into build/docs/html, and the
# man pages ubctl(8), ubtab(5), unionblk(5) and ubsnapd(8), into build/docs/man. A
# warning is an error, also of groff, which formats the man pages for a terminal of 80 columns:
# it warns of a line or a table that is wider. `make docs` calls it in the build
# root, or with KDIR on the machine itself.
. "$(dirname "$0")/lib.sh"

command -v sphinx-build >/dev/null || die "sphinx-build is missing: apt install python3-sphinx"
to=$BUILD/docs
# Two builds at once would remove each other's pages.
exec 9>"$BUILD/docs.lock"
flock 9
# A page that has not changed repeats no warning, so nothing is kept.
rm -rf "$to"
mkdir -p "$to"
for builder in html man; do
	PYTHONDONTWRITEBYTECODE=1 sphinx-build -q -W --keep-going -n -b "$builder" \
		-d "$to/doctrees" "$TOP/Documentation" "$to/$builder"
done
command -v groff >/dev/null || die "groff is missing: apt install groff-base"
for page in "$to"/man/*.[58]; do
	warnings=$(groff -K utf8 -T utf8 -t -man -rLL=78n -ww -z "$page" 2>&1) || true
	[ -z "$warnings" ] || die "groff on ${page##*/}: $warnings"
done
say "built build/docs/html/index.html, build/docs/man/{ubctl.8,ubtab.5,unionblk.5,ubsnapd.8}"
