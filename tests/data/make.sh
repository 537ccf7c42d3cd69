#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes a golden leaf with the present code, and the text of what it says:
#   tests/data/make.sh NAME    makes tests/data/NAME.leaf.zst and NAME.txt
# A name that ends with -layer makes a sealed layer, NAME.sealed.zst.
# An existing leaf or layer is never made again, because it holds what the code of its
# time wrote.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=${1:?a name, such as v2-workload}
kind=leaf
[[ $name != *-layer ]] || kind=sealed
if [ -e "tests/data/$name.$kind.zst" ]; then
	echo "tests/data/$name.$kind.zst is there: every later version is held to it; choose another name" >&2
	exit 1
fi
into=$(mktemp -d)
trap 'rm -rf "$into"' EXIT
GOLDEN=$name INTO=$into cargo test -q --locked -p ubctl golden::make -- --ignored
zstd -q -19 "$into/$name.$kind" -o "tests/data/$name.$kind.zst"
cp "$into/$name.txt" "tests/data/$name.txt"
wc -c "tests/data/$name.$kind.zst" "tests/data/$name.txt"
