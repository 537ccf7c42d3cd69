// SPDX-License-Identifier: GPL-2.0
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::seeds::make_if_asked(),
    |data: &[u8]| fuzz::attach::run(data)
);
