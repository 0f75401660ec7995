//! What must outlive the store: epoch, used total and the meter's position, in two small files beside it.
//!
//! They are written alternately after each commit that moved any of the three, and synced. A file that was torn is
//! told by its checksum, and then the other one is the truth, one sync older. So the mirror is never ahead of the
//! store: when it is, the store has lost commits.
//!
//! One line of 512 octets each: JSON, spaces, and a checksum (FNV-1a, 64 bits) over everything before it.
//!
//! ```text
//! {"sequence":7,"epoch":77,"used":1200,"position":{…}}          … 9f3a61c0d24be871
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use simquota_shared::ids::Text;
use simquota_shared::units::{Epoch, Octets};

use crate::agent::{Durable, Identity, Position};

const NAMES: [&str; 2] = ["epoch-a", "epoch-b"];
const FILE_OCTETS: usize = 512;
/// A space, 16 hexadecimal digits and the end of the line.
const SUM_OCTETS: usize = 18;
const BODY_OCTETS: usize = FILE_OCTETS - SUM_OCTETS;

/// What the mirror shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mirrored {
    sequence: u64,
    /// The epoch.
    pub epoch: u64,
    /// The used total after the last durable row.
    pub used: u64,
    position: Option<Place>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Place {
    boot_id: String,
    netns: u64,
    index: u64,
    name: String,
    up: u64,
    down: u64,
    left: bool,
}

impl Mirrored {
    fn of(state: &Durable, sequence: u64) -> Mirrored {
        Mirrored {
            sequence,
            epoch: state.epoch.0,
            used: state.used.0,
            position: state.position.as_ref().map(|position| Place {
                boot_id: position.identity.boot_id.to_string(),
                netns: position.identity.netns,
                index: position.identity.index,
                name: position.identity.name.to_string(),
                up: position.up,
                down: position.down,
                left: position.left,
            }),
        }
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    /// The used total after the last durable row.
    #[must_use]
    pub fn used(&self) -> Octets {
        Octets(self.used)
    }

    /// Where the meter stood there.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        let place = self.position.as_ref()?;
        Some(Position {
            identity: Identity {
                boot_id: Text::clipped(&place.boot_id),
                netns: place.netns,
                index: place.index,
                name: Text::clipped(&place.name),
            },
            up: place.up,
            down: place.down,
            left: place.left,
        })
    }
}

/// The two files.
#[derive(Debug)]
pub struct Mirror {
    files: [File; 2],
    last: Option<Mirrored>,
}

impl Mirror {
    /// Opens the files in the data folder, or makes them.
    ///
    /// # Errors
    /// When the system refuses. What the files hold is never an error.
    pub fn open(folder: &Path) -> io::Result<Mirror> {
        let open = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(folder.join(name))
        };
        let [a, b] = NAMES;
        let files = [open(a)?, open(b)?];
        let whole = files.iter().filter_map(read);
        let last = whole.max_by_key(|mirrored| mirrored.sequence);
        Ok(Mirror { files, last })
    }

    /// What was written last, if any of it can be read.
    #[must_use]
    pub const fn last(&self) -> Option<&Mirrored> {
        self.last.as_ref()
    }

    /// Takes over what was just committed. Acknowledgements and credit alone cost no write.
    ///
    /// # Errors
    /// When it can't be written. The store is what counts: the agent can go on.
    pub fn write(&mut self, state: &Durable) -> io::Result<()> {
        let sequence = self.last.as_ref().map_or(0, |last| last.sequence);
        if self.last.as_ref() == Some(&Mirrored::of(state, sequence)) {
            return Ok(());
        }
        let next = Mirrored::of(state, sequence.wrapping_add(1));
        let [even, odd] = &self.files;
        let file = if next.sequence.is_multiple_of(2) {
            even
        } else {
            odd
        };
        file.write_all_at(&line(&next)?, 0)?;
        file.sync_data()?;
        self.last = Some(next);
        Ok(())
    }
}

fn line(mirrored: &Mirrored) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(mirrored)?;
    // An interface's name and a boot id leave room enough; a longer one is no reason to write half of it.
    if line.len() > BODY_OCTETS {
        return Err(io::Error::other("the mirror's line is too long"));
    }
    line.resize(BODY_OCTETS, b' ');
    let sum = checksum(&line);
    line.extend_from_slice(format!(" {sum:016x}\n").as_bytes());
    Ok(line)
}

fn read(file: &File) -> Option<Mirrored> {
    let mut line = [0; FILE_OCTETS];
    file.read_exact_at(&mut line, 0).ok()?;
    let (body, sum) = line.split_at_checked(BODY_OCTETS)?;
    let sum = std::str::from_utf8(sum).ok()?;
    if sum != format!(" {:016x}\n", checksum(body)) {
        return None;
    }
    serde_json::from_slice(body.trim_ascii_end()).ok()
}

/// FNV-1a: it has to notice a torn file, not an attacker.
fn checksum(octets: &[u8]) -> u64 {
    octets.iter().fold(0xcbf2_9ce4_8422_2325, |sum, octet| {
        (sum ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use simquota_shared::ids::ZoneId;

    use super::*;

    fn state(used: u64) -> Durable {
        Durable {
            used: Octets(used),
            position: Some(Position {
                identity: Identity {
                    boot_id: Text::clipped("0123-4567"),
                    netns: 1,
                    index: 2,
                    name: Text::clipped("wwan0"),
                },
                up: used,
                down: 0,
                left: false,
            }),
            ..Durable::fresh(Epoch(u64::MAX), None, ZoneId::home())
        }
    }

    fn last(folder: &Path) -> Option<(u64, u64)> {
        let mirror = Mirror::open(folder).unwrap();
        mirror.last().map(|last| (last.epoch, last.used))
    }

    #[test]
    fn the_latest_write_is_read_back_with_the_position() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(last(dir.path()), None);
        let mut mirror = Mirror::open(dir.path()).unwrap();
        for used in [0, 10, 20] {
            mirror.write(&state(used)).unwrap();
            assert_eq!(last(dir.path()), Some((u64::MAX, used)));
        }
        let mirror = Mirror::open(dir.path()).unwrap();
        assert_eq!(mirror.last().unwrap().position(), state(20).position);
    }

    #[test]
    fn an_acknowledgement_costs_no_write() {
        let dir = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(dir.path()).unwrap();
        mirror.write(&state(10)).unwrap();
        let before = mirror.last.clone();
        let acked = Durable {
            acked: simquota_shared::units::Seq(3),
            ..state(10)
        };
        mirror.write(&acked).unwrap();
        assert_eq!(mirror.last, before);
    }

    #[test]
    fn a_write_torn_at_any_octet_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(dir.path()).unwrap();
        for used in [1, 2, 3] {
            mirror.write(&state(used)).unwrap();
        }
        // The third write went where the first one was: `epoch-b`.
        let path = dir.path().join(NAMES[1]);
        let whole = std::fs::read(&path).unwrap();
        let before = line(&Mirrored::of(&state(1), 1)).unwrap();
        assert_eq!(whole, line(&Mirrored::of(&state(3), 3)).unwrap());
        for torn in 0..FILE_OCTETS {
            let mixed = [&whole[..torn], &before[torn..]].concat();
            std::fs::write(&path, &mixed).unwrap();
            let expected = if mixed == whole { 3 } else { 2 };
            assert_eq!(last(dir.path()).unwrap().1, expected, "torn at {torn}");
        }
        std::fs::write(&path, &whole[..100]).unwrap();
        assert_eq!(last(dir.path()).unwrap().1, 2);
    }

    #[test]
    fn with_both_files_damaged_nothing_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(dir.path()).unwrap();
        mirror.write(&state(1)).unwrap();
        for name in NAMES {
            std::fs::write(dir.path().join(name), [b'x'; FILE_OCTETS]).unwrap();
        }
        assert_eq!(last(dir.path()), None);
        // And it can be written again.
        let mut mirror = Mirror::open(dir.path()).unwrap();
        mirror.write(&state(5)).unwrap();
        assert_eq!(last(dir.path()).unwrap().1, 5);
    }
}
