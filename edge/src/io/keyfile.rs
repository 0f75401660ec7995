//! The file with the device's key.
//!
//! One line, as `simquota-cloud enrol` prints it, in a file that only its owner can read:
//!
//! ```text
//! csim1:tracker-1:batch-a/1:00112233…eeff        device, key id, 64 hexadecimal digits
//! ```
//!
//! The key is this device's own, derived from the enrolment key of its batch, which never leaves the cloud.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use simquota_shared::envelope::{Key, Kid};
use simquota_shared::ids::{DeviceId, EnrolmentId};

/// What the line begins with; the number is the version of its form.
const PREFIX: &str = "csim1";
/// Longer than any line of the form.
const FILE_OCTETS_MAX: u64 = 1024;

/// Who the device is, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// The device.
    pub device: DeviceId,
    /// The enrolment key's id and generation.
    pub kid: Kid,
    /// The device's key.
    pub key: Key,
}

/// Why there is no key. No text of it holds any part of the file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It can't be read.
    #[error(
        "cannot read the key file {} ({source}): put the line that `simquota-cloud enrol` printed into it, or correct `key_file`",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Others may read it.
    #[error("the key file {path} can be read by others (mode {mode:04o}): run `chmod 600 {path}`", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not the line.
    #[error(
        "the key file {} is not `csim1:DEVICE:ENROLMENT/GENERATION:KEY` ({why}): put the line that `simquota-cloud enrol` printed into it",
        path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Enrolment {
    /// Reads a key file.
    ///
    /// # Errors
    /// [`KeyFileError`]; a file that others may read is refused.
    pub fn read(path: &Path) -> Result<Enrolment, KeyFileError> {
        let failed = |source| KeyFileError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Open {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = String::new();
        file.take(FILE_OCTETS_MAX)
            .read_to_string(&mut text)
            .map_err(failed)?;
        parse(&text).map_err(|why| KeyFileError::Form {
            path: path.to_owned(),
            why,
        })
    }

    /// The line for a key file.
    #[must_use]
    pub fn line(&self) -> String {
        let Enrolment { device, kid, key } = self;
        format!("{PREFIX}:{device}:{kid}:{}\n", key.to_hex().as_str())
    }
}

/// What a device needs to begin with: the line for its key file, and the broker.
///
/// `csim1:DEVICE:BATCH/GENERATION:KEY@mqtts://HOST:PORT`; `mqtt://` is without TLS. The port is 8883, or 1883 without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentString {
    /// Who the device is.
    pub enrolment: Enrolment,
    /// The broker's host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// With TLS.
    pub tls: bool,
}

impl std::str::FromStr for EnrolmentString {
    /// What is wrong with it and what to do; no part of the key is in it.
    type Err = String;

    fn from_str(text: &str) -> Result<EnrolmentString, String> {
        let advice = "give the line that `simquota-cloud enrol DEVICE --batch BATCH --to mqtts://HOST` printed";
        let wrong = |why: String| format!("this is no enrolment string ({why}): {advice}");
        let (line, url) = text
            .trim()
            .split_once('@')
            .ok_or_else(|| wrong("it names no broker".to_owned()))?;
        let enrolment = parse(line).map_err(wrong)?;
        let (host, port, tls) = broker(url).map_err(wrong)?;
        Ok(EnrolmentString {
            enrolment,
            host,
            port,
            tls,
        })
    }
}

/// Host, port and whether with TLS.
fn broker(url: &str) -> Result<(String, u16, bool), String> {
    let (scheme, place) = url
        .split_once("://")
        .ok_or("the broker is not mqtts://HOST:PORT")?;
    let (tls, usual) = match scheme {
        "mqtts" => (true, 8883),
        "mqtt" => (false, 1883),
        _ => return Err("the broker begins with neither mqtts:// nor mqtt://".to_owned()),
    };
    let place = place.trim_end_matches('/');
    // An IPv6 address stands in brackets.
    let (host, port) = match place
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = port.map_or(Ok(usual), |port| {
        port.parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or("the broker's port is not a number from 1 to 65535")
    })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(plain) {
        return Err("the broker has no host, or one with strange characters".to_owned());
    }
    Ok((host.to_owned(), port, tls))
}

fn parse(text: &str) -> Result<Enrolment, String> {
    let mut parts = text.trim().split(':');
    let mut next = |what: &str| parts.next().ok_or_else(|| format!("the {what} is missing"));
    if next("prefix")? != PREFIX {
        return Err(format!("it does not begin with {PREFIX}"));
    }
    let device: DeviceId = next("device")?
        .parse()
        .map_err(|error| format!("the device: {error}"))?;
    let kid = next("enrolment")?;
    let (name, generation) = kid
        .split_once('/')
        .ok_or("the enrolment has no generation")?;
    let name: EnrolmentId = name
        .parse()
        .map_err(|error| format!("the enrolment: {error}"))?;
    let generation = generation
        .parse()
        .ok()
        .filter(|generation| *generation > 0)
        .ok_or("the generation is not a number from 1")?;
    let key = Key::from_hex(next("key")?).map_err(|error| error.to_string())?;
    if parts.next().is_some() {
        return Err("something follows the key".to_owned());
    }
    Ok(Enrolment {
        device,
        kid: Kid {
            name: name.to_string(),
            generation,
        },
        key,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn enrolment() -> Enrolment {
        Enrolment {
            device: "tracker-1".parse().unwrap(),
            kid: Kid {
                name: "batch-a".to_owned(),
                generation: 2,
            },
            key: Key::new([0xab; 32]),
        }
    }

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_written_is_read() {
        let line = enrolment().line();
        assert_eq!(
            line,
            format!("csim1:tracker-1:batch-a/2:{}\n", "ab".repeat(32))
        );
        let (_dir, path) = file(&line, 0o600);
        assert_eq!(Enrolment::read(&path).unwrap(), enrolment());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_remedy() {
        for mode in [0o644, 0o640, 0o604, 0o660] {
            let (_dir, path) = file(&enrolment().line(), mode);
            let text = Enrolment::read(&path).unwrap_err().to_string();
            assert!(text.contains("chmod 600"), "{text}");
        }
    }

    #[test]
    fn an_enrolment_string_names_the_broker_too() {
        let line = enrolment().line().trim().to_owned();
        for (url, host, port, tls) in [
            ("mqtts://mqtt.example.com", "mqtt.example.com", 8883, true),
            (
                "mqtts://mqtt.example.com:443/",
                "mqtt.example.com",
                443,
                true,
            ),
            ("mqtt://10.0.0.1:1884", "10.0.0.1", 1884, false),
            ("mqtt://[fe80::1]:1884", "fe80::1", 1884, false),
        ] {
            let provision: EnrolmentString = format!("{line}@{url}\n").parse().unwrap();
            assert_eq!(provision.enrolment, enrolment());
            let found = (provision.host.as_str(), provision.port, provision.tls);
            assert_eq!(found, (host, port, tls));
        }
        for (end, says) in [
            ("", "names no broker"),
            ("@http://x", "neither mqtts"),
            ("@mqtts://", "no host"),
            ("@mqtts://a b", "strange"),
            ("@mqtts://a:0", "1 to 65535"),
            ("0@mqtts://a", "64 hexadecimal"),
        ] {
            let said = format!("{line}{end}")
                .parse::<EnrolmentString>()
                .unwrap_err();
            assert!(said.contains(says), "{end}: {said}");
            assert!(!said.contains(&"ab".repeat(32)), "{said}");
        }
    }

    #[test]
    fn mistakes_are_named_and_the_key_is_not() {
        let key = "ab".repeat(32);
        for (line, says) in [
            (String::new(), "begin with csim1"),
            (
                format!("csim2:tracker-1:batch-a/2:{key}"),
                "begin with csim1",
            ),
            (format!("csim1:Tracker:batch-a/2:{key}"), "device"),
            (format!("csim1:tracker-1:batch-a:{key}"), "generation"),
            (format!("csim1:tracker-1:batch-a/0:{key}"), "generation"),
            (format!("csim1:tracker-1:batch.a/1:{key}"), "enrolment"),
            ("csim1:tracker-1:batch-a/1".to_owned(), "key is missing"),
            (
                format!("csim1:tracker-1:batch-a/1:{key}00"),
                "64 hexadecimal",
            ),
            (format!("csim1:tracker-1:batch-a/1:{key}:x"), "follows"),
        ] {
            let (_dir, path) = file(&line, 0o600);
            let text = Enrolment::read(&path).unwrap_err().to_string();
            assert!(text.contains(says), "{line}: {text}");
            assert!(!text.contains(&key), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
    }
}
