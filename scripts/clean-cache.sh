#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Removes what these scripts put into the cache, and prints what it removes.
. "$(dirname "$0")/lib.sh"

if [ -n "$(findmnt -rno TARGET | grep "^$CACHE/" || true)" ]; then
	die "something is mounted below $CACHE: nothing removed"
fi
shopt -s nullglob
for path in "$CACHE"/{root,kernel,kunit,bench,image,target,snapshot-suite,containerd,container-programs,container-packages,initramfs,release}-* \
	"$CACHE"/cargo "$CACHE"/tools; do
	say "removing $path ($(du -sh "$path" 2>/dev/null | cut -f1))"
	rm -rf --one-file-system "$path"
done
rmdir "$CACHE" 2>/dev/null || say "left in $CACHE: $(ls -A "$CACHE")"
