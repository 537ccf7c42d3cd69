#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs a command inside the build root, with the project at /src and the cache
# at /cache. All mounts are in a private namespace of the command and go with
# it.
#   scripts/in-root.sh make -C /src modules
. "$(dirname "$0")/lib.sh"
need_root in-root.sh

root=${UNIONBLK_ROOT:-$("$TOP/scripts/buildroot.sh")}
export UNIONBLK_ENTER="$root" UNIONBLK_TOP="$TOP" UNIONBLK_CACHE_DIR="$CACHE"

# The machine's certificates and proxies are used inside too, because a site's
# mirror may need them.
# shellcheck disable=SC2016 # expanded inside the namespace
exec unshare --mount --propagation private bash -c '
set -e
r=$UNIONBLK_ENTER
mount -t proc proc "$r/proc"
mount --rbind /dev "$r/dev"
mount --rbind /sys "$r/sys"
mount -t tmpfs -o mode=1777 tmpfs "$r/tmp"
mount --bind "$UNIONBLK_TOP" "$r/src"
mount --bind "$UNIONBLK_CACHE_DIR" "$r/cache"
cp -L /etc/resolv.conf "$r/etc/resolv.conf" 2>/dev/null || true
cp -L /etc/hosts "$r/etc/hosts" 2>/dev/null || true
ca=
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
	cp -L /etc/ssl/certs/ca-certificates.crt "$r/etc/machine-ca.crt"
	ca=/etc/machine-ca.crt
fi
keep=()
for v in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY \
	V CI FULL TEST_MINUTES SIZE SEED REPLAY FUZZ_SECONDS FUZZ_RUNS SOAK_SECONDS QUICK JOBS KDIR KERNEL T ICOUNT VM_KVM UPDATE UNIONBLK_MIRROR; do
	[ -n "${!v+x}" ] && keep+=("$v=${!v}")
done
exec chroot "$r" /usr/bin/env -i "${keep[@]}" \
	HOME=/root TERM="${TERM:-dumb}" LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
	PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	UNIONBLK_CACHE=/cache CARGO_HOME=/cache/cargo UNIONBLK_IN_ROOT=1 \
	${ca:+CARGO_HTTP_CAINFO=$ca SSL_CERT_FILE=$ca} \
	sh -c "cd /src && exec \"\$@\"" sh "$@"
' bash "$@"
