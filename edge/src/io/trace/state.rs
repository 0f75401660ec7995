//! The counter of a trace source, kept in a small file.
//!
//! Two slots are written in turn, each by one `write_at` and without fsync. The page cache survives a
//! `kill -9` just as a kernel counter does; a record torn by a kill in the middle of its write was not
//! handed out yet, so the other slot is the truth. A power cut may take the file back to an older
//! record; then the counter goes back under the same identity, which the agent takes for a restart.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::TraceError;

const MAGIC: &[u8; 8] = b"sqtrace1";
const RECORD_OCTETS: usize = 96;
/// Apart from each other, so that no torn write of one touches the other.
const SLOT_OFFSETS: [u64; 2] = [0, 512];

/// FNV-1a, 64 bits: it has to notice a torn record, not an attacker.
pub(super) struct Checksum(u64);

impl Checksum {
    pub(super) fn new() -> Checksum {
        Checksum(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn value(&self) -> u64 {
        self.0
    }
}

/// Where the trace stands and what was delivered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    /// Octets delivered since the state file was created, over all rounds.
    pub(super) up: u64,
    pub(super) down: u64,
    /// The line that is next, and how much of it was delivered already.
    pub(super) line: u64,
    pub(super) line_up: u64,
    pub(super) line_down: u64,
    /// Trace time in the present round, in microseconds.
    pub(super) at_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    /// +1 with each write: the higher of the two slots is the newer.
    sequence: u64,
    id: u128,
    fingerprint: u64,
    position: Position,
}

/// An open state file, locked against a second process.
pub(super) struct StateFile {
    file: File,
    path: PathBuf,
    last: Record,
}

impl StateFile {
    /// Opens the file or creates it with `new_id`'s identity and an empty counter.
    pub(super) fn open(
        path: &Path,
        fingerprint: u64,
        new_id: impl FnOnce() -> Result<u128, TraceError>,
    ) -> Result<StateFile, TraceError> {
        let cannot = |source| TraceError::Open {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(cannot)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => TraceError::Locked {
                path: path.to_owned(),
            },
            TryLockError::Error(source) => cannot(source),
        })?;
        let fresh = file.metadata().map_err(cannot)?.len() == 0;
        let (last, new) = match newest(&file) {
            Some(record) if record.fingerprint == fingerprint => (record, false),
            Some(_) => {
                return Err(TraceError::OtherTrace {
                    path: path.to_owned(),
                });
            }
            None if fresh => {
                let record = Record {
                    sequence: 0,
                    id: new_id()?,
                    fingerprint,
                    position: Position::default(),
                };
                (record, true)
            }
            None => {
                return Err(TraceError::Damaged {
                    path: path.to_owned(),
                });
            }
        };
        let mut state = StateFile {
            file,
            path: path.to_owned(),
            last,
        };
        if new {
            // The identity is kept before the first reading shows it to anyone.
            state.write(Position::default())?;
        }
        Ok(state)
    }

    pub(super) fn id(&self) -> u128 {
        self.last.id
    }

    pub(super) fn position(&self) -> Position {
        self.last.position
    }

    /// Keeps a new position. After an error the old one stands, in memory and in the file.
    pub(super) fn write(&mut self, position: Position) -> Result<(), TraceError> {
        let next = Record {
            sequence: self.last.sequence.wrapping_add(1),
            position,
            ..self.last
        };
        let [even, odd] = SLOT_OFFSETS;
        let offset = if next.sequence.is_multiple_of(2) {
            even
        } else {
            odd
        };
        self.file
            .write_all_at(&encode(&next), offset)
            .map_err(|source| TraceError::Write {
                path: self.path.clone(),
                source,
            })?;
        self.last = next;
        Ok(())
    }
}

fn encode(record: &Record) -> [u8; RECORD_OCTETS] {
    let Record {
        sequence,
        id,
        fingerprint,
        position,
    } = record;
    let Position {
        up,
        down,
        line,
        line_up,
        line_down,
        at_us,
    } = position;
    let mut bytes = Vec::with_capacity(RECORD_OCTETS);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&id.to_le_bytes());
    for field in [
        sequence,
        fingerprint,
        up,
        down,
        line,
        line_up,
        line_down,
        at_us,
    ] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    let mut sum = Checksum::new();
    sum.add(&bytes);
    bytes.extend_from_slice(&sum.value().to_le_bytes());
    let mut record = [0; RECORD_OCTETS];
    for (to, from) in record.iter_mut().zip(bytes) {
        *to = from;
    }
    record
}

/// Where the counter in this file stands, whoever plays it.
pub(super) fn read(path: &Path) -> Result<Position, TraceError> {
    let file = File::open(path).map_err(|source| TraceError::Open {
        path: path.to_owned(),
        source,
    })?;
    let damaged = || TraceError::Damaged {
        path: path.to_owned(),
    };
    Ok(newest(&file).ok_or_else(damaged)?.position)
}

fn newest(file: &File) -> Option<Record> {
    SLOT_OFFSETS
        .iter()
        .filter_map(|offset| read_slot(file, *offset))
        .max_by_key(|record| record.sequence)
}

/// The record in a slot; `None` if there is none or it is torn.
fn read_slot(file: &File, offset: u64) -> Option<Record> {
    let mut bytes = [0; RECORD_OCTETS];
    file.read_exact_at(&mut bytes, offset).ok()?;
    let (body, sum) = bytes.split_last_chunk::<8>()?;
    let mut expected = Checksum::new();
    expected.add(body);
    let (magic, rest) = body.split_first_chunk::<8>()?;
    if magic != MAGIC || u64::from_le_bytes(*sum) != expected.value() {
        return None;
    }
    let (id, mut rest) = rest.split_first_chunk::<16>()?;
    let mut field = || {
        let (value, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(u64::from_le_bytes(*value))
    };
    Some(Record {
        id: u128::from_le_bytes(*id),
        sequence: field()?,
        fingerprint: field()?,
        position: Position {
            up: field()?,
            down: field()?,
            line: field()?,
            line_up: field()?,
            line_down: field()?,
            at_us: field()?,
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    fn open(path: &Path) -> Result<StateFile, TraceError> {
        StateFile::open(path, 7, || Ok(0xabcd))
    }

    fn at(up: u64) -> Position {
        Position {
            up,
            down: 2,
            line: 3,
            line_up: 4,
            line_down: 5,
            at_us: 6,
        }
    }

    #[test]
    fn a_record_survives_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for up in 1..5 {
            let mut state = open(&path).unwrap();
            state.write(at(up)).unwrap();
            drop(state);
            let state = open(&path).unwrap();
            assert_eq!((state.position(), state.id()), (at(up), 0xabcd));
        }
    }

    #[test]
    fn a_torn_record_at_any_octet_gives_way_to_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut state = open(&path).unwrap();
        state.write(at(100)).unwrap();
        state.write(at(200)).unwrap();
        drop(state);
        let whole = std::fs::read(&path).unwrap();
        // Creation wrote sequence 1, so sequence 3 overwrote it: both are in the second slot.
        let [_, offset] = SLOT_OFFSETS;
        let old = encode(&Record {
            sequence: 1,
            id: 0xabcd,
            fingerprint: 7,
            position: Position::default(),
        });
        for cut in 0..RECORD_OCTETS {
            std::fs::write(&path, &whole).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            let tail = old.get(cut..).unwrap();
            file.write_all_at(tail, offset + u64::try_from(cut).unwrap())
                .unwrap();
            drop(file);
            let state = open(&path).unwrap();
            assert_eq!(state.position(), at(100), "torn at {cut}");
        }
    }

    #[test]
    fn a_file_without_a_whole_record_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::write(&path, b"something else").unwrap();
        let error = open(&path).err().unwrap();
        assert!(matches!(error, TraceError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("state"), "{error}");
    }

    #[test]
    fn a_second_process_and_another_trace_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = open(&path).unwrap();
        // Locks belong to the open file, so a second opening stands for a second process.
        let error = open(&path).err().unwrap();
        assert!(matches!(error, TraceError::Locked { .. }), "{error}");
        drop(first);
        let error = StateFile::open(&path, 8, || Ok(1)).err().unwrap();
        assert!(matches!(error, TraceError::OtherTrace { .. }), "{error}");
    }
}
