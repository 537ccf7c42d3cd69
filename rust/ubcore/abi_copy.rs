// SPDX-License-Identifier: GPL-2.0

//! Structures of the ioctl interface that grow at their end, between a caller and a driver of
//! different version. This does what `copy_struct_from_user()` and `copy_struct_to_user()` of
//! `include/linux/uaccess.h` do, over any memory of a caller.
//!
//! The first word of a structure is its size as the caller knows it. Bytes that the caller does not
//! have are zero for the driver. Bytes that the driver does not know must be zero, and are zero
//! afterwards.

use super::abi::Call;
use super::num::u32_as_usize;

/// The largest size that a caller may state: a page, as for the kernel's own structures.
pub const SIZE_MAX: usize = 4096;

/// The number of bytes of a tail that are looked at, or cleared, at a time.
const TAIL_STEP: usize = 64;

/// The size word of a structure.
const WORD: usize = size_of::<u32>();

/// The memory in which a caller's structure lies.
pub trait Caller {
    /// The error of an access to the memory.
    type Error;

    /// Reads all of `out` from byte `at` on.
    fn read(&mut self, at: usize, out: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes all of `bytes` from byte `at` on.
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// Why a structure is refused. The caller's memory is unchanged then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<E> {
    /// `EINVAL`: smaller than the first version of the structure.
    Small,
    /// `E2BIG`: larger than any structure can be, or a byte that the driver does not know is not
    /// zero.
    Large,
    /// The caller's memory cannot be reached.
    Memory(E),
}

impl<E> From<E> for Refused<E> {
    fn from(e: E) -> Self {
        Refused::Memory(e)
    }
}

/// Reads a caller's structure. Clears the fields for the driver's answers, so that the caller finds
/// zeroes in them, and not its own bytes, if the driver fails before it answers.
pub fn copy_in<C: Call, M: Caller>(from: &mut M) -> Result<C, Refused<M::Error>> {
    let mut word = [0; WORD];
    from.read(0, &mut word)?;
    let stated = u32::from_ne_bytes(word);
    let size = u32_as_usize(stated);
    if size < C::SIZE_VER0 {
        return Err(Refused::Small);
    }
    if size > SIZE_MAX {
        return Err(Refused::Large);
    }
    for at in (size_of::<C>()..size).step_by(TAIL_STEP) {
        let mut bytes = [0; TAIL_STEP];
        // The whole step, if more is left than it takes.
        let part: &mut [u8] = match bytes.get_mut(..size.wrapping_sub(at)) {
            Some(part) => part,
            None => &mut bytes,
        };
        from.read(at, part)?;
        if part.iter().any(|&b| b != 0) {
            return Err(Refused::Large);
        }
    }
    let mut c = C::new_zeroed();
    let common = size.min(size_of::<C>());
    let known = c.as_mut_bytes().get_mut(WORD..common);
    from.read(WORD, known.ok_or(Refused::Small)?)?;
    // The caller may have written to the word meanwhile. Use the size that was checked.
    c.set_size(stated);
    c.clear_answers();
    Ok(c)
}

/// Gives an answer back, as far as the caller has room for it. Clears what the caller has beyond
/// it. `c` is what [`copy_in`] made, and has the size that was checked.
pub fn copy_out<C: Call, M: Caller>(c: &C, to: &mut M) -> Result<(), M::Error> {
    let size = u32_as_usize(c.size()).min(SIZE_MAX);
    for at in (size_of::<C>()..size).step_by(TAIL_STEP) {
        let zeroes = [0; TAIL_STEP];
        // The whole step, if more is left than it takes.
        let part = zeroes.get(..size.wrapping_sub(at));
        to.write(at, part.unwrap_or(&zeroes))?;
    }
    // All of it, if the caller has room for more.
    let bytes = c.as_bytes();
    to.write(0, bytes.get(..size).unwrap_or(bytes))
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_abi_copy))]
mod tests {
    use super::super::abi::{
        Call, Create, FeaturesCall, Freeze, Limit, LostCall, Remove, Reset, Status,
    };
    use super::{copy_in, copy_out, Caller, Refused, SIZE_MAX};
    use zerocopy::IntoBytes;

    /// The part of a caller's page that is looked at. The rest is zero.
    const KEPT: usize = 1024;

    /// A caller's page, of which the first `len` bytes can be reached.
    struct Page {
        bytes: [u8; KEPT],
        len: usize,
    }

    impl Page {
        /// Returns a page full of `fill`, except for the size that it states.
        fn new(fill: u8, stated: usize) -> Self {
            let mut bytes = [fill; KEPT];
            bytes[..4].copy_from_slice(&(stated as u32).to_ne_bytes());
            Page {
                bytes,
                len: stated.min(SIZE_MAX),
            }
        }
    }

    impl Caller for Page {
        type Error = ();

        fn read(&mut self, at: usize, out: &mut [u8]) -> Result<(), ()> {
            let end = at.checked_add(out.len()).filter(|&end| end <= self.len);
            for (n, b) in (at..end.ok_or(())?).zip(out) {
                *b = self.bytes.get(n).copied().unwrap_or(0);
            }
            Ok(())
        }

        fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), ()> {
            let end = at.checked_add(bytes.len()).filter(|&end| end <= self.len);
            for (n, &b) in (at..end.ok_or(())?).zip(bytes) {
                if n < KEPT {
                    self.bytes[n] = b;
                }
            }
            Ok(())
        }
    }

    fn refused<C: Call>(page: &mut Page) -> Option<Refused<()>> {
        let before = page.bytes;
        let why = copy_in::<C, Page>(page).err();
        assert!(page.bytes == before);
        why
    }

    fn sizes<C: Call>() {
        let (least, ours) = (C::SIZE_VER0, size_of::<C>());
        assert!((8..=ours).contains(&least) && ours <= SIZE_MAX);
        for size in [0, 3, 4, least - 1] {
            let mut page = Page::new(0, size);
            page.len = SIZE_MAX;
            assert!(refused::<C>(&mut page) == Some(Refused::Small));
        }
        for size in [least, ours, ours + 1, ours + 200, SIZE_MAX] {
            assert!(refused::<C>(&mut Page::new(0, size)).is_none());
        }
        for size in [SIZE_MAX + 1, 1 << 20, u32::MAX as usize] {
            assert!(refused::<C>(&mut Page::new(0, size)) == Some(Refused::Large));
        }
        // Each byte of the tail counts, and no byte after it.
        for at in [ours, ours + 63, ours + 64, ours + 199] {
            let mut page = Page::new(0, ours + 200);
            page.bytes[ours + 200] = 1;
            assert!(refused::<C>(&mut page).is_none());
            page.bytes[at] = 1;
            assert!(refused::<C>(&mut page) == Some(Refused::Large));
        }
        // A structure that cannot be reached to its end, or not at all.
        for len in [0, 4, least - 1, ours + 199] {
            let mut page = Page::new(0, ours + 200);
            page.len = len;
            assert!(refused::<C>(&mut page) == Some(Refused::Memory(())));
        }
    }

    #[test]
    fn callers_of_any_age() {
        sizes::<FeaturesCall>();
        sizes::<Create>();
        sizes::<Remove>();
        sizes::<Status>();
        sizes::<LostCall>();
        sizes::<Freeze>();
        sizes::<Reset>();
        sizes::<Limit>();
    }

    /// What the caller had in the fields for answers does not come back, whatever its size.
    fn answers<C: Call>(is_input: impl Fn(usize) -> bool) {
        for size in C::SIZE_VER0..=size_of::<C>() {
            let mut page = Page::new(0xa5, size);
            let copied = copy_in::<C, Page>(&mut page);
            assert!(copied.is_ok());
            let c = copied.unwrap_or_else(|_| C::new_zeroed());
            assert!(copy_out(&c, &mut page).is_ok());
            for (at, &b) in page.bytes.iter().enumerate().skip(4) {
                let kept = at >= size || is_input(at);
                assert!(b == if kept { 0xa5 } else { 0 });
            }
            // Fields that the caller does not have are zero for the driver.
            assert!(c.as_bytes().iter().skip(size).all(|&b| b == 0));
        }
    }

    #[test]
    fn answers_are_cleared() {
        answers::<FeaturesCall>(|_| false);
        answers::<Create>(|at| at < 528 || (560..572).contains(&at));
        answers::<Remove>(|at| at < 16);
        answers::<Status>(|at| at < 12 || (660..664).contains(&at));
        answers::<LostCall>(|at| at < 24);
        answers::<Freeze>(|at| at < 12 || (16..288).contains(&at));
        answers::<Reset>(|at| at < 12 || (16..32).contains(&at));
        answers::<Limit>(|at| at < 12 || (16..40).contains(&at));
    }

    #[test]
    fn an_answer_fits_its_caller() {
        let ours = size_of::<Status>();
        // Room for more: the rest is cleared, up to the size and no further.
        let mut page = Page::new(0, ours + 100);
        page.bytes[ours + 100..].fill(0x5a);
        let mut s = copy_in::<Status, Page>(&mut page).unwrap_or_default();
        s.lost_sectors = 7;
        page.bytes[ours..ours + 100].fill(0x77);
        assert!(copy_out(&s, &mut page).is_ok());
        assert!(page.bytes[..ours] == *s.as_bytes());
        assert!(page.bytes[ours..ours + 100].iter().all(|&b| b == 0));
        assert!(page.bytes[ours + 100..].iter().all(|&b| b == 0x5a));
        assert_eq!(stated(&page), ours + 100);

        // Room for less: the rest is the caller's own.
        let mut page = Page::new(0, Status::SIZE_VER0);
        page.bytes[Status::SIZE_VER0..].fill(0x5a);
        let mut s = copy_in::<Status, Page>(&mut page).unwrap_or_default();
        (s.sectors, s.lost_sectors) = (9, 7);
        assert!(copy_out(&s, &mut page).is_ok());
        assert!(page.bytes[..Status::SIZE_VER0] == s.as_bytes()[..Status::SIZE_VER0]);
        assert!(page.bytes[Status::SIZE_VER0..].iter().all(|&b| b == 0x5a));
        assert_eq!(stated(&page), Status::SIZE_VER0);
    }

    fn stated(page: &Page) -> usize {
        u32::from_ne_bytes([page.bytes[0], page.bytes[1], page.bytes[2], page.bytes[3]]) as usize
    }
}
