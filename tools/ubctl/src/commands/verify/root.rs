// SPDX-License-Identifier: GPL-2.0

//! Verifies a root or a frozen leaf against its full digest.

use std::path::{Path, PathBuf};

use serde::Serialize;
use ubcore::sealed::full_digest::{Head, CHUNK_BYTES};
use ubcore::sealed::Digest;

use super::VerifyArgs;
use crate::device::Device;
use crate::error::{Fail, Result, REFUSED, USAGE};
use crate::full_digest::{self, BadRange, Compared, DigestFile};
use crate::{output, sealed};

/// How many ranges the text names. JSON has all.
const NAMED: usize = 16;

/// The result. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct RootReport {
    root: String,
    digest_file: Option<String>,
    /// The full digest that it must have.
    digest: String,
    sectors: u64,
    chunk_bytes: u32,
    chunks: u64,
    damaged: Vec<DamagedRange>,
}

#[derive(Debug, Serialize)]
struct DamagedRange {
    byte: u64,
    bytes: u64,
    /// `differs` or `unreadable`.
    why: &'static str,
}

/// What a root is compared with.
pub enum Expected {
    /// The digests in a file.
    File(Box<DigestFile>),
    /// A full digest. It does not say which part is wrong.
    Digest(Digest),
}

/// Returns what to compare a device with, if it is no sealed layer and has a full digest.
pub fn wanted(args: &VerifyArgs, device: &Device) -> Result<Option<Expected>> {
    if sealed::is_marked(device) || device.start() > 0 {
        if args.digest_file.is_some() {
            let text = "a sealed layer has its digests in it: leave --digest-file out";
            return Err(Fail::new(USAGE, "usage", text));
        }
        return Ok(None);
    }
    let digest = args.digest.as_ref();
    let file = match (&args.digest_file, digest) {
        (Some(file), _) => Some(file.clone()),
        (None, _) => there(device.path()),
    };
    if file.is_none() && digest.is_none() {
        return Ok(None);
    }
    full_digest::refuse_leaf(device)?;
    if !args.against.is_empty() {
        let text = "--against is for sealed layers, and this is none: leave it out";
        return Err(Fail::new(USAGE, "usage", text));
    }
    match (file, digest) {
        (Some(file), _) => open(device, &file, digest).map(|file| Some(Expected::File(file))),
        (None, digest) => Ok(digest.map(|digest| Expected::Digest(*digest))),
    }
}

/// Returns the digest file beside an image, if it is there.
fn there(image: &Path) -> Option<PathBuf> {
    full_digest::beside(image).filter(|file| file.exists())
}

fn open(device: &Device, file: &Path, digest: Option<&Digest>) -> Result<Box<DigestFile>> {
    let file = DigestFile::open(file, digest)?;
    file.refuse_other_size(device)?;
    Ok(Box::new(file))
}

/// Verifies the device.
pub fn run(device: &Device, wanted: &Expected, json: bool) -> Result {
    let (file, digest) = match wanted {
        Expected::File(file) => (Some(file.as_ref()), *file.head().digest()),
        Expected::Digest(digest) => (None, *digest),
    };
    let compared = full_digest::compare(device, file)?;
    let fail = judge(device, &compared, &digest);
    let report = RootReport {
        root: device.path().display().to_string(),
        digest_file: file.map(|file| file.path().display().to_string()),
        digest: output::hex(&digest),
        sectors: device.sectors(),
        chunk_bytes: CHUNK_BYTES,
        chunks: Head::new(device.sectors(), digest).map_or(0, |head| head.chunks()),
        damaged: compared.bad.iter().map(damaged).collect(),
    };
    if !json {
        output::text(&text(device, &report, &compared.bad, fail.is_none()))?;
        return fail.map_or(Ok(()), Err);
    }
    match fail {
        None => output::json(&report),
        Some(fail) => Err(fail.with(serde_json::to_value(&report).unwrap_or_default())),
    }
}

fn damaged(range: &BadRange) -> DamagedRange {
    DamagedRange {
        byte: range.byte,
        bytes: range.bytes,
        why: range.word(),
    }
}

fn judge(device: &Device, compared: &Compared, wanted: &Digest) -> Option<Fail> {
    if let Some(fail) = full_digest::damaged(device, &compared.bad) {
        return Some(fail);
    }
    let found = compared.digest.filter(|found| found != wanted)?;
    let text = format!(
        "{}: its full digest is {}, and not the wanted one: use another copy of it; with its digest \
         file ubctl verify says which part differs",
        device.name(),
        output::hex(&found)
    );
    Some(Fail::new(REFUSED, "damaged", text))
}

fn text(device: &Device, report: &RootReport, bad: &[BadRange], is_whole: bool) -> String {
    let state = if is_whole { "whole" } else { "damaged" };
    let mut fields = vec![
        ("digest", report.digest.clone()),
        ("size", output::size(report.sectors)),
    ];
    if let Some(file) = &report.digest_file {
        fields.push(("digest file", output::path(Path::new(file))));
    }
    for range in bad.iter().take(NAMED) {
        fields.push(("damaged", range.text()));
    }
    if let Some(more) = bad.len().checked_sub(NAMED).filter(|&n| n > 0) {
        fields.push(("damaged", format!("and {more} more: see --json")));
    }
    let head = format!("{}: {state}\n", device.name());
    head + &output::fields(&fields)
}

/// Refuses a root or a frozen leaf that is not as the digests in a file say: the given one, or the
/// one beside the image.
pub fn refuse_damage(device: &Device, file: Option<&Path>) -> Result {
    let Some(file) = file.map(Path::to_owned).or_else(|| there(device.path())) else {
        let name = device.name();
        let text = format!(
            "{name}: it has no digest file, so it cannot be verified: make one with ubctl seal-root \
             {name} where it is known to be right{}",
            match device.path() {
                path if full_digest::beside(path).is_some() => "",
                _ => ", and name that with --digest-file if it is the root",
            }
        );
        return Err(Fail::new(REFUSED, "no_digest_file", text));
    };
    full_digest::refuse_leaf(device)?;
    let file = open(device, &file, None)?;
    let compared = full_digest::compare(device, Some(&file))?;
    // The file was read twice, and could have changed meanwhile.
    judge(device, &compared, file.head().digest()).map_or(Ok(()), Err)
}
