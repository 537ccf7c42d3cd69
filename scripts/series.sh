# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
# All that depends on the kernel series and on the Debian suite that carries it.
# A new series is a change of this file, and of what the compiler then says.
SUITE=trixie
SERIES=7.3
FLAVOUR=cloud-amd64
