//! The roster `<data>/keys/roster`: whom this folder's keys were made for. It holds no secret; what a broker's access
//! control is written from, so that it can be written before the service could be asked.
//!
//! ```text
//! person buses-manager manager buses
//! device tracker-1 spring/1
//! gone tracker-1
//! ```
//!
//! Lines are only appended; the last one about a name counts. The ledger decides what is believed; this decides who
//! gets as far as to say something.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, EnrolmentId, FleetId, KeyId};

use crate::ledger::entry::Role;

/// Who may speak to the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// People's keys: what they may do, and in which fleet.
    pub people: BTreeMap<KeyId, (Role, Option<FleetId>)>,
    /// Devices, and the key that theirs is derived from.
    pub devices: BTreeMap<DeviceId, Kid>,
}

/// Why there is no roster.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// It can't be read or written.
    #[error("can't {action} {}: {source}: check the path and its owner", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is none.
    #[error("{}: line {line} is not one of a roster: restore the file from a backup", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: usize,
    },
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A person's key.
    Person(KeyId, Role, Option<FleetId>),
    /// A device.
    Device(DeviceId, Kid),
    /// A person's key or a device that may no longer speak.
    Gone(String),
}

fn path(data: &Path) -> PathBuf {
    data.join("keys").join("roster")
}

/// Notes something, durably.
///
/// # Errors
/// [`RosterError`].
pub fn note(data: &Path, line: &Line) -> Result<(), RosterError> {
    let path = path(data);
    let text = match line {
        Line::Person(key, role, None) => format!("person {key} {}\n", role_name(*role)),
        Line::Person(key, role, Some(fleet)) => {
            format!("person {key} {} {fleet}\n", role_name(*role))
        }
        Line::Device(device, kid) => format!("device {device} {kid}\n"),
        Line::Gone(name) => format!("gone {name}\n"),
    };
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| {
            // One write: two commands at once don't mix their lines.
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|source| RosterError::Io {
            action: "write",
            path,
            source,
        })
}

/// Reads it; without a file nobody is on it.
///
/// # Errors
/// [`RosterError`].
pub fn read(data: &Path) -> Result<Roster, RosterError> {
    let path = path(data);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => {
            return Err(RosterError::Io {
                action: "read",
                path,
                source,
            });
        }
    };
    let mut roster = Roster::default();
    for (index, line) in text.lines().enumerate() {
        match parse(line) {
            Some(Line::Person(key, role, fleet)) => {
                roster.people.insert(key, (role, fleet));
            }
            Some(Line::Device(device, kid)) => {
                roster.devices.insert(device, kid);
            }
            Some(Line::Gone(name)) => {
                roster.people.retain(|key, _| key.as_str() != name);
                roster.devices.retain(|device, _| device.as_str() != name);
            }
            None => {
                return Err(RosterError::Form {
                    path,
                    line: index + 1,
                });
            }
        }
    }
    Ok(roster)
}

/// A role's name, as commands and rosters have it.
#[must_use]
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Manager => "manager",
        Role::Viewer => "viewer",
    }
}

fn parse(line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["person", key, "admin"] => Some(Line::Person(key.parse().ok()?, Role::Admin, None)),
        ["person", key, role, fleet] => {
            let role = match *role {
                "manager" => Role::Manager,
                "viewer" => Role::Viewer,
                _ => return None,
            };
            let fleet = Some(fleet.parse().ok()?);
            Some(Line::Person(key.parse().ok()?, role, fleet))
        }
        ["device", device, kid] => {
            let (name, generation) = kid.split_once('/')?;
            let kid = Kid {
                name: name.parse::<EnrolmentId>().ok()?.to_string(),
                generation: generation.parse().ok()?,
            };
            Some(Line::Device(device.parse().ok()?, kid))
        }
        ["gone", name] => Some(Line::Gone((*name).to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_noted_is_read_and_the_last_line_counts() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("keys")).unwrap();
        assert_eq!(read(data.path()).unwrap(), Roster::default());
        let manager: KeyId = "buses-manager".parse().unwrap();
        let tracker: DeviceId = "tracker-1".parse().unwrap();
        let lines = [
            Line::Person("admin".parse().unwrap(), Role::Admin, None),
            Line::Person(
                manager.clone(),
                Role::Manager,
                Some("buses".parse().unwrap()),
            ),
            Line::Device(tracker.clone(), Kid::first(&"spring")),
            Line::Device("tracker-2".parse().unwrap(), Kid::first(&"spring")),
            Line::Gone("tracker-2".to_owned()),
        ];
        for line in &lines {
            note(data.path(), line).unwrap();
        }
        let roster = read(data.path()).unwrap();
        assert_eq!(roster.people.len(), 2);
        assert_eq!(roster.people.get(&manager).unwrap().0, Role::Manager);
        assert_eq!(
            roster.devices.into_iter().collect::<Vec<_>>(),
            [(tracker, Kid::first(&"spring"))]
        );
        let path = data.path().join("keys/roster");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + "devcie x y\n").unwrap();
        let error = read(data.path()).unwrap_err().to_string();
        assert!(error.contains("line 6 is not"), "{error}");
    }
}
