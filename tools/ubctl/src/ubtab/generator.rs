// SPDX-License-Identifier: GPL-2.0

//! `unionblk-generator`: makes units of systemd from `/etc/ubtab`.
//!
//! systemd runs it before it loads any unit, at boot and at each reload. It reads the file, writes
//! below the directory that it is given, and does nothing else: there may be no device yet, and no
//! file system but the root's, so it must neither look at devices nor wait.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::units::Units;
use super::{read, Entry, PATH};
use crate::error::{Fail, Result};
use crate::output;

/// The name under which the tool is the generator.
pub const NAME: &str = "unionblk-generator";
/// Where the tool is if the kernel does not say.
const TOOL: &str = "/usr/sbin/ubctl";

/// Runs as the generator if the tool was started under its name. The arguments are three
/// directories, of which the first is for units like these. A test gives a fourth, the file.
pub fn run_if_named(args: &[OsString]) -> Option<ExitCode> {
    let name = Path::new(args.first()?).file_name()?;
    if name != NAME {
        return None;
    }
    let given = args.get(4).map(Path::new);
    let Some(directory) = args.get(1) else {
        output::complain(&format!(
            "{NAME}: systemd calls this with three directories: see ubtab(5)"
        ));
        return Some(ExitCode::from(crate::error::USAGE));
    };
    let file = given.unwrap_or(Path::new(PATH));
    let complaints = generate(file, Path::new(directory)).unwrap_or_else(|fail| vec![fail.message]);
    for text in &complaints {
        output::complain(text);
        if given.is_none() {
            log(text);
        }
    }
    Some(match complaints.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Writes an error to the kernel's log, from which the journal takes it. No other log is there when
/// systemd runs a generator.
fn log(text: &str) {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let file = OpenOptions::new().write(true).open("/dev/kmsg");
    // If this fails, there is no other place.
    let _ = file.and_then(|mut file| file.write_all(format!("<3>{NAME}: {text}\n").as_bytes()));
}

/// Makes the units of the lines of a file that are right. Returns what is wrong with the others.
fn generate(file: &Path, directory: &Path) -> Result<Vec<String>> {
    let Some(tab) = read(file)? else {
        return Ok(Vec::new());
    };
    let tool = std::env::current_exe().unwrap_or_else(|_| PathBuf::from(TOOL));
    let errors = tab.errors.iter();
    let errors = errors.map(|error| format!("{}, {error}", file.display()));
    // A line whose units cannot be written does not affect the others.
    let written = tab
        .entries
        .iter()
        .map(|entry| write(entry, directory, &tool));
    let failed = written.filter_map(|done| Some(done.err()?.message));
    Ok(errors.chain(failed).collect())
}

fn write(entry: &Entry, directory: &Path, tool: &Path) -> Result {
    let units = Units::of(entry, tool);
    put(&directory.join(&units.service), &units.text)?;
    for folder in &units.links {
        let link = directory.join(folder).join(&units.service);
        let to = Path::new("..").join(&units.service);
        let made = folder_of(&link).and_then(|()| symlink(&to, &link));
        made.map_err(|e| Fail::io("create", &link, &e))?;
    }
    for (path, text) in &units.files {
        put(&directory.join(path), text)?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result {
    let done = folder_of(path).and_then(|()| fs::write(path, text));
    done.map_err(|e| Fail::io("create", path, &e))
}

fn folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

#[cfg(test)]
mod tests {
    use super::generate;
    use std::fs;

    #[test]
    fn units_and_links_are_made_of_the_lines_that_are_right() {
        let folder = std::env::temp_dir().join(format!("ubctl-generator-{}", std::process::id()));
        let (file, to) = (folder.join("ubtab"), folder.join("units"));
        fs::create_dir_all(&to).unwrap();
        assert!(generate(&file, &to).unwrap().is_empty());
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
        let text = "web-01 /dev/vda /srv/leaf x-systemd.device-timeout=9s\nx y z\n";
        fs::write(&file, text).unwrap();
        let wrong = generate(&file, &to).unwrap();
        assert!(
            wrong.len() == 1 && wrong[0].contains("ubtab, line 2: "),
            "{wrong:?}"
        );
        let service = "unionblk@web-01.service";
        let unit = fs::read_to_string(to.join(service)).unwrap();
        for path in [
            "dev-unionblk-by\\x2dname-web\\x2d01.device.requires",
            "local-fs.target.wants",
        ] {
            let link = to.join(path).join(service);
            assert_eq!(fs::read_to_string(link).unwrap(), unit, "{path}");
        }
        assert!(to.join("dev-vda.device.d/50-unionblk-web-01.conf").exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
