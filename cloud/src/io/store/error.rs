//! What can go wrong with the store. Each text names the folder and ends with what to do.

use std::io;
use std::path::{Path, PathBuf};

use simquota_shared::units::EntryNumber;

use crate::ledger::Broken;

/// Why the store can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the store {} is in use by another process: stop that one, or set another `data` folder", .0.display())]
    Locked(PathBuf),
    /// There is none.
    #[error("there is no store {}: check `data` in the configuration; `serve` makes one", .0.display())]
    Missing(PathBuf),
    /// The system said no.
    #[error("the store {} can't be {done}: {source}: {}", folder.display(), advice(source))]
    Io {
        /// Which store.
        folder: PathBuf,
        /// What could not be done to it.
        done: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A write failed before; nothing more is accepted.
    #[error("the store {} takes no more writes after one that failed: start the service again", .0.display())]
    Poisoned(PathBuf),
    /// It is not as it was written.
    #[error("the store {} is damaged ({why}): restore the folder from a backup", folder.display())]
    Damaged {
        /// Which store.
        folder: PathBuf,
        /// What was found.
        why: String,
    },
    /// Entries that were durable are not there.
    #[error("the store {} lost entries: the first that is missing is {missing}, the last that was durable {last}: restore the folder from a backup, do not go on with it", folder.display())]
    Lost {
        /// Which store.
        folder: PathBuf,
        /// The first entry that is missing.
        missing: EntryNumber,
        /// The last that was durable.
        last: EntryNumber,
    },
    /// Written by another version.
    #[error("the store {} has format {found}, this program knows 1: use a newer program", folder.display())]
    Format {
        /// Which store.
        folder: PathBuf,
        /// Its format.
        found: u64,
    },
    /// An entry can't be read.
    #[error("entry {entry} in the store {} can't be read ({why}): restore the folder from a backup", folder.display())]
    Unreadable {
        /// Which store.
        folder: PathBuf,
        /// Which entry.
        entry: EntryNumber,
        /// Why.
        why: String,
    },
    /// An entry does not fit the ones before it.
    #[error("entry {entry} in the store {} does not fit ({broken}): restore the folder from a backup", folder.display())]
    DoesNotFit {
        /// Which store.
        folder: PathBuf,
        /// Which entry.
        entry: EntryNumber,
        /// Why.
        broken: Broken,
    },
    /// Entries that do not follow the last one: a defect of ours.
    #[error("entry {entry} does not follow {last} in the store {}: start the service again and report this", folder.display())]
    NotNext {
        /// Which store.
        folder: PathBuf,
        /// The entry that was to be written.
        entry: EntryNumber,
        /// The last one there.
        last: EntryNumber,
    },
    /// A row that can't be written: a defect of ours.
    #[error("a row for the store {} can't be written ({why}): report this", folder.display())]
    Unwritable {
        /// Which store.
        folder: PathBuf,
        /// Why.
        why: String,
    },
}

impl StoreError {
    pub(super) fn damaged(folder: &Path, why: impl Into<String>) -> Self {
        Self::Damaged {
            folder: folder.to_owned(),
            why: why.into(),
        }
    }

    pub(super) fn io(folder: &Path, done: &'static str, source: io::Error) -> Self {
        Self::Io {
            folder: folder.to_owned(),
            done,
            source,
        }
    }

    pub(super) fn from_fjall(folder: &Path, done: &'static str, error: fjall::Error) -> Self {
        use fjall::{Error, LsmError};
        let folder = folder.to_owned();
        match error {
            Error::Locked => Self::Locked(folder),
            Error::Poisoned => Self::Poisoned(folder),
            Error::Io(source) | Error::Storage(LsmError::Io(source)) => Self::Io {
                folder,
                done,
                source,
            },
            other => Self::Damaged {
                folder,
                why: format!("{other:?}"),
            },
        }
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space and start the service again"
        }
        io::ErrorKind::PermissionDenied => "give its owner the right to it",
        io::ErrorKind::ReadOnlyFilesystem => "make the file system writable",
        _ => "check the path, its owner and the disk",
    }
}
