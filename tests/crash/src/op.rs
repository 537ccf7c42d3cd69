// SPDX-License-Identifier: GPL-2.0

//! The operations of a workload, as values and as the words of a replay line.

use std::fmt;
use std::str::FromStr;

/// A range of union sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub at: u64,
    pub len: u64,
}

/// One step of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Write(Range),
    /// A write with FUA.
    Fua(Range),
    /// The range of the last write again; if there is none, this range.
    Overwrite(Range),
    Zero(Range),
    Discard(Range),
    Flush,
    /// A store of some of the pages that a checkpoint writes.
    Store,
    Checkpoint,
    Reattach,
    /// A freeze of the leaf as it is attached. Nothing follows but a power failure.
    Freeze,
    /// A freeze of the leaf as `ubctl` does it: after a flush the machine has gone down without a
    /// detach, and the journal is replayed.
    FreezeDetached,
    /// A reset of the leaf as it is attached.
    Reset,
    /// A reset of the leaf as `ubctl` does it: after a flush the machine has gone down without a
    /// detach. Then the leaf is attached again.
    ResetDetached,
    /// Growth of union and leaf as `ubctl` does it: after a flush the machine has gone down without
    /// a detach. Then the leaf is attached again. Nothing follows but a power failure.
    GrowDetached,
    /// A write that is sent and does not complete before `End`.
    Begin(Range),
    /// Completion of the writes that were begun, the last first.
    End,
    /// A power failure in the operation before this: at which of its points, and what landed.
    PowerFailure(u16, Landed),
    /// The same as `PowerFailure`, in the recovery from the failure before it.
    Again(u16, Landed),
    /// Rot of each metadata sector in turn, after the operation before this.
    Rot,
}

/// Which version of each unflushed sector landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landed {
    /// As a generator with this seed chooses, for data sectors too.
    Seed(u64),
    /// A digit for each metadata sector in doubt, in their order on disk: 0 is what was durable.
    /// Data sectors stay in doubt, so each of their versions must be valid.
    Digits(Vec<u8>),
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.at, self.len)
    }
}

impl fmt::Display for Landed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Landed::Seed(seed) => write!(f, "s{seed}"),
            Landed::Digits(digits) => {
                write!(f, "d")?;
                digits.iter().try_for_each(|d| write!(f, "{d:x}"))
            }
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Write(r) => write!(f, "write@{r}"),
            Operation::Fua(r) => write!(f, "fua@{r}"),
            Operation::Overwrite(r) => write!(f, "over@{r}"),
            Operation::Zero(r) => write!(f, "zero@{r}"),
            Operation::Discard(r) => write!(f, "discard@{r}"),
            Operation::Flush => write!(f, "flush"),
            Operation::Store => write!(f, "store"),
            Operation::Checkpoint => write!(f, "checkpoint"),
            Operation::Reattach => write!(f, "reattach"),
            Operation::Freeze => write!(f, "freeze"),
            Operation::FreezeDetached => write!(f, "freeze-detached"),
            Operation::Reset => write!(f, "reset"),
            Operation::ResetDetached => write!(f, "reset-detached"),
            Operation::GrowDetached => write!(f, "grow-detached"),
            Operation::Begin(r) => write!(f, "begin@{r}"),
            Operation::End => write!(f, "end"),
            Operation::Rot => write!(f, "rot"),
            Operation::PowerFailure(at, landed) => write!(f, "power-failure:{at}:{landed}"),
            Operation::Again(at, landed) => write!(f, "again:{at}:{landed}"),
        }
    }
}

impl FromStr for Range {
    type Err = String;

    /// Parses `AT+LEN`, or `AT` for one sector.
    fn from_str(s: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().map_err(|_| format!("{n}: not a sector"));
        let (at, len) = s.split_once('+').unwrap_or((s, "1"));
        Ok(Range {
            at: number(at)?,
            len: number(len)?,
        })
    }
}

impl FromStr for Landed {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("{s}: neither s and a seed nor d and digits");
        if let Some(seed) = s.strip_prefix('s') {
            return Ok(Landed::Seed(seed.parse().map_err(|_| bad())?));
        }
        let digits = s.strip_prefix('d').ok_or_else(bad)?.chars();
        let digit = |c: char| c.to_digit(16).map(|d| d as u8).ok_or_else(bad);
        Ok(Landed::Digits(digits.map(digit).collect::<Result<_, _>>()?))
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Some((name, range)) = s.split_once('@') {
            let range = range.parse()?;
            return Ok(match name {
                "write" => Operation::Write(range),
                "w512" => Operation::Write(Range { len: 1, ..range }),
                "w4k" => Operation::Write(Range { len: 8, ..range }),
                "fua" => Operation::Fua(range),
                "over" => Operation::Overwrite(range),
                "zero" => Operation::Zero(range),
                "discard" => Operation::Discard(range),
                "begin" => Operation::Begin(range),
                _ => return Err(format!("{s}: no such operation")),
            });
        }
        let mut parts = s.splitn(3, ':');
        let name = parts.next().unwrap_or_default();
        let point = parts.next().unwrap_or("0").parse();
        let point = point.map_err(|_| format!("{s}: not a point"))?;
        let landed = parts.next().unwrap_or("d");
        Ok(match name {
            "flush" => Operation::Flush,
            "store" => Operation::Store,
            "checkpoint" => Operation::Checkpoint,
            "reattach" => Operation::Reattach,
            "freeze" => Operation::Freeze,
            "freeze-detached" => Operation::FreezeDetached,
            "reset" => Operation::Reset,
            "reset-detached" => Operation::ResetDetached,
            "grow-detached" => Operation::GrowDetached,
            "end" => Operation::End,
            "rot" => Operation::Rot,
            "power-failure" => Operation::PowerFailure(point, landed.parse()?),
            "again" => Operation::Again(point, landed.parse()?),
            _ => return Err(format!("{s}: no such operation")),
        })
    }
}

/// Returns operations as the words of a line.
pub fn line(ops: &[Operation]) -> String {
    let words: Vec<String> = ops.iter().map(Operation::to_string).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{line, Operation};

    #[test]
    fn a_line_says_what_it_was_made_of() {
        let text =
            "write@3+8 fua@1+1 over@0+4 zero@30+40 discard@32+32 flush store checkpoint reattach \
                    freeze freeze-detached reset reset-detached grow-detached rot begin@7+2 end power-failure:3:s17 again:2:d01f";
        let ops: Vec<Operation> = text
            .split_whitespace()
            .map(|w| w.parse().unwrap())
            .collect();
        assert_eq!(line(&ops), text);
        let short: Operation = "w4k@0".parse().unwrap();
        assert_eq!(short.to_string(), "write@0+8");
        for bad in [
            "what",
            "write@x",
            "power-failure:a",
            "power-failure:1:x",
            "power-failure:1:dz",
        ] {
            assert!(bad.parse::<Operation>().is_err(), "{bad}");
        }
    }
}
