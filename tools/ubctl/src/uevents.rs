// SPDX-License-Identifier: GPL-2.0

//! The uevents of the kernel, from its netlink socket. It needs no rights.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::netlink::{SocketAddrNetlink, KOBJECT_UEVENT};
use rustix::net::{bind, recvfrom, socket_with, sockopt};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::error::{Fail, Result};

/// The group of the kernel's own messages. The other group has those of udev.
const KERNEL: u32 = 1;
/// More than a uevent has.
const ROOM: usize = 16384;
/// The bytes of the messages that the kernel keeps for a reader that is late.
const QUEUE: usize = 1 << 20;

/// A uevent: its variables.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Uevent(BTreeMap<String, String>);

impl Uevent {
    /// Decodes a message: `ACTION@DEVPATH`, and then variables, each with a zero behind it.
    pub fn parse(message: &[u8]) -> Uevent {
        let words = message
            .split(|&b| b == 0)
            .filter_map(|word| std::str::from_utf8(word).ok());
        let pair = |word: &str| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        Uevent(words.skip(1).filter_map(pair).collect())
    }

    /// Returns a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// What was received.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A uevent.
    Uevent(Uevent),
    /// The kernel had no room for uevents that came since the last one.
    Missed,
    /// There is none now.
    Nothing,
}

/// The socket.
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Receives all uevents from now on.
    pub fn open() -> Result<Uevents> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(KOBJECT_UEVENT);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)
            .map_err(|e| failed("open", e))?;
        // With less room, more uevents may be missed.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, QUEUE);
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL)).map_err(|e| failed("listen on", e))?;
        Ok(Uevents(socket))
    }

    /// Returns the next uevent. Does not wait.
    pub fn next(&self) -> Result<Received> {
        let mut room = vec![0; ROOM];
        loop {
            let received = recvfrom(&self.0, &mut room[..], RecvFlags::empty());
            let (len, _, from) = match received {
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::NOBUFS) => return Ok(Received::Missed),
                Err(Errno::INTR) => continue,
                Err(e) => return Err(failed("read", e)),
            };
            // A process may send to this group too. The kernel's port is 0.
            let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
            if from.is_some_and(|from| from.pid() == 0) {
                return Ok(Received::Uevent(Uevent::parse(&room[..len])));
            }
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn failed(what: &str, e: Errno) -> Fail {
    Fail::io(what, Path::new("the socket of uevents"), &e.into())
}

#[cfg(test)]
mod tests {
    use super::Uevent;

    #[test]
    fn a_message_is_decoded() {
        let event = Uevent::parse(
            b"change@/devices/virtual/block/unionblk0\0ACTION=change\0A=b=c\0UNIONBLK_EVENT=full\0X\0",
        );
        assert_eq!(event.get("ACTION"), Some("change"));
        assert_eq!(event.get("A"), Some("b=c"));
        assert_eq!(event.get("UNIONBLK_EVENT"), Some("full"));
        assert_eq!(
            (
                event.get("X"),
                event.get("change@/devices/virtual/block/unionblk0")
            ),
            (None, None)
        );
        assert_eq!(Uevent::parse(b""), Uevent::default());
        assert_eq!(
            Uevent::parse(b"libudev\0\xfe\xed\0\xff=1\0"),
            Uevent::default()
        );
    }
}
