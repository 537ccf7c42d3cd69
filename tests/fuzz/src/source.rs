// SPDX-License-Identifier: GPL-2.0

//! Numbers from a fuzzer's bytes. After the last byte all numbers are zero.

/// Bytes that are consumed in order.
pub struct Numbers<'a>(pub &'a [u8]);

impl<'a> Numbers<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn word(&mut self) -> u32 {
        u32::from(self.half()) | (u32::from(self.half()) << 16)
    }

    pub fn long(&mut self) -> u64 {
        u64::from(self.word()) | (u64::from(self.word()) << 32)
    }

    pub fn below(&mut self, n: u32) -> u32 {
        let wide = if n > 256 {
            u32::from(self.half())
        } else {
            u32::from(self.byte())
        };
        wide % n.max(1)
    }

    /// Returns true once in so many byte values.
    pub fn chance(&mut self, one_in: u8) -> bool {
        self.byte() % one_in == one_in - 1
    }

    /// Returns a number near one of several given numbers, or any number.
    pub fn near(&mut self, those: &[u64]) -> u64 {
        let how = self.byte();
        let picked = those[usize::from(how >> 2) % those.len()];
        match how & 3 {
            0 => picked,
            1 => picked.wrapping_add(1),
            2 => picked.wrapping_sub(1),
            _ => self.long() >> (self.byte() % 64),
        }
    }

    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
