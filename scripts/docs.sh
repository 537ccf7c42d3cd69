#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds the pages of Documentation/ with Sphinx, into build/docs/html, and the
# man pages ubctl(8) and unionblk(5), into build/docs/man. A warning is an
# error. `make docs` calls it in the build root, or with KDIR on the machine
# itself.
. "$(dirname "$0")/lib.sh"

command -v sphinx-build >/dev/null || die "sphinx-build is missing: apt install python3-sphinx"
to=$BUILD/docs
# A page that has not changed repeats no warning, so nothing is kept.
rm -rf "$to"
mkdir -p "$to"
for builder in html man; do
	PYTHONDONTWRITEBYTECODE=1 sphinx-build -q -W --keep-going -n -b "$builder" \
		-d "$to/doctrees" "$TOP/Documentation" "$to/$builder"
done
say "built build/docs/html/index.html, build/docs/man/ubctl.8, build/docs/man/unionblk.5"
