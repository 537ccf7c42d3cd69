#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Checks that the project has one version, that of [workspace.package] in
# Cargo.toml: each package takes it from there, CHANGELOG.md begins with it, and
# a tag vX of this commit is that version.
#   scripts/check-version.sh [VERSION]...    also compares these
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
breaches=0
# same WHERE FOUND
same() {
	[ "$2" = "$version" ] && return
	printf '%s: version "%s", Cargo.toml has "%s"\n' "$1" "$2" "$version"
	breaches=$((breaches + 1))
}

[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || { printf 'Cargo.toml: no version: "%s"\n' "$version"; exit 1; }
same CHANGELOG.md "$(sed -n 's/^## \([0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)"
for manifest in rust/ubcore/Cargo.toml tools/*/Cargo.toml tests/{crash,races,sim,tool}/Cargo.toml; do
	grep -qx 'version.workspace = true' "$manifest" || same "$manifest" "a separate version"
done
same tests/fuzz/Cargo.toml "$(sed -n 's/^version = "\(.*\)"$/\1/p' tests/fuzz/Cargo.toml)"
if tags=$(git -c safe.directory='*' tag --points-at HEAD 2>/dev/null); then
	for tag in $tags; do
		[[ $tag != v[0-9]* ]] || same "tag $tag" "${tag#v}"
	done
fi
for found; do same "as built" "$found"; done
[ $breaches = 0 ]
