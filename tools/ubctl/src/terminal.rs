// SPDX-License-Identifier: GPL-2.0

//! The terminal that a command writes to: its width, and whether it shows colours.

use std::env;
use std::io::{self, IsTerminal};

use rustix::termios::tcgetwinsize;

/// The width of what is no terminal.
const COLUMNS: usize = 80;

/// Returns the columns of the terminal that standard output is, or of one that is not known.
pub fn columns() -> usize {
    let size = tcgetwinsize(io::stdout());
    let size = size.ok().map(|size| usize::from(size.ws_col));
    size.filter(|&columns| columns > 0).unwrap_or(COLUMNS)
}

/// Returns whether standard output shows colours. The user can switch them off with `NO_COLOR`.
pub fn has_colours() -> bool {
    let asked = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let is_dumb = asked("TERM").is_none_or(|term| term == "dumb");
    io::stdout().is_terminal() && !is_dumb && asked("NO_COLOR").is_none()
}

/// Clears the terminal.
pub const CLEAR: &str = "\x1b[H\x1b[J";

/// Returns whether a table that changes is drawn anew in its place.
pub fn is_drawn_anew() -> bool {
    io::stdout().is_terminal() && env::var_os("TERM").is_some_and(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::{columns, has_colours};

    #[test]
    fn a_file_has_a_width_and_no_colours() {
        // The tests may run on a terminal.
        assert!(columns() > 0);
        let _ = has_colours();
    }
}
