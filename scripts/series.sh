# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
# Everything that depends on the kernel series and on the Debian suite that
# carries it. A new series needs a change of this file, and of the code that the
# compiler then rejects.
SUITE=trixie
SERIES=7.3
FLAVOUR=cloud-amd64
