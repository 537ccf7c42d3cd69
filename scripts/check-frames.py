#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Checks that no function of a module takes more than so many bytes of stack. A kernel thread has
16 KiB, and nothing stops a frame that is larger than that.

    scripts/check-frames.py MODULE BYTES
"""

import re
import subprocess
import sys

module, most = sys.argv[1], int(sys.argv[2])
text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", module], stdout=subprocess.PIPE, text=True, check=True)
function, frames = "", []
for line in text.stdout.splitlines():
    if begin := re.match(r"[0-9a-f]+ <(.*)>:", line):
        function = begin.group(1)
    elif frame := re.search(r"sub +\$0x([0-9a-f]+),%rsp", line):
        frames.append((int(frame.group(1), 16), function))
too_large = [(size, name) for size, name in frames if size > most]
for size, name in sorted(too_large, reverse=True):
    print(f"{module}: {name}: a frame of {size} bytes, over {most}")
if not frames:
    print(f"{module}: no frame found")
sys.exit(bool(too_large) or not frames)
