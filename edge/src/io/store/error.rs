//! What can be wrong with a store, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use fjall::{Error, LsmError};

/// Why the store can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "the store {} is locked by another process: stop that agent, or give this one a data folder of its own (`data`)",
        path.display()
    )]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// No right to it.
    #[error("the store {} may not be read and written by this user ({source}): correct its owner", path.display())]
    Denied {
        /// The store.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No space, or no more of it for this user.
    #[error("there is no space left for the store {} ({source}): free some, 128 MB are enough", path.display())]
    Full {
        /// The store.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system takes no writes.
    #[error("the store {} is on a read-only file system: mount it for writing, or set `data` to another place", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
    },
    /// Not what was written.
    #[error("the store {} is damaged ({why}): move it away and start the agent, which begins a new epoch", path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// Written by another version.
    #[error("the store {} was written by another version of this program ({version}): start that one", path.display())]
    Version {
        /// The store.
        path: PathBuf,
        /// Which.
        version: String,
    },
    /// A write failed before; what is stored is not certain until it is opened again.
    #[error("the store {} takes no writes after one failed: free some space, it is opened again by itself", path.display())]
    Poisoned {
        /// The store.
        path: PathBuf,
    },
    /// Anything else that the system says.
    #[error("the store {} cannot be used ({why}): check the disk and the folder", path.display())]
    Failed {
        /// The store.
        path: PathBuf,
        /// What was said.
        why: String,
    },
    /// A row that has no form: a defect of ours.
    #[error("a row for the store {} could not be written ({why}): report this", path.display())]
    Unwritable {
        /// The store.
        path: PathBuf,
        /// What was said.
        why: String,
    },
}

impl StoreError {
    pub(super) fn damaged(path: &Path, why: impl Into<String>) -> StoreError {
        StoreError::Damaged {
            path: path.to_owned(),
            why: why.into(),
        }
    }

    pub(super) fn from_fjall(path: &Path, error: Error) -> StoreError {
        let at = || path.to_owned();
        match error {
            Error::Io(source) | Error::Storage(LsmError::Io(source)) => from_io(path, source),
            Error::Locked => StoreError::Locked { path: at() },
            Error::Poisoned => StoreError::Poisoned { path: at() },
            // Moved away it would be lost to the program that can read it.
            Error::InvalidVersion(Some(version)) => StoreError::Version {
                path: at(),
                version: format!("{version:?}"),
            },
            Error::Storage(LsmError::InvalidVersion(version)) => StoreError::Version {
                path: at(),
                version: version.to_string(),
            },
            Error::KeyspaceDeleted => StoreError::Failed {
                path: at(),
                why: "a keyspace was deleted".to_owned(),
            },
            Error::Storage(error) => StoreError::damaged(path, format!("{error:?}")),
            // Recovery errors, wrong trailers and tags, and whatever later versions add: not what was written.
            other => StoreError::damaged(path, format!("{other:?}")),
        }
    }
}

fn from_io(path: &Path, source: io::Error) -> StoreError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => StoreError::Denied { path, source },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::Full { path, source }
        }
        io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { path },
        // A file of the store that is missing, too short or not what it says.
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
            StoreError::Damaged {
                path,
                why: source.to_string(),
            }
        }
        _ => StoreError::Failed {
            path,
            why: source.to_string(),
        },
    }
}
