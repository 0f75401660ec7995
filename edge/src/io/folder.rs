//! The agent's data folder, and who may use it: one process at a time.
//!
//! ```text
//! lock              held by the running agent; its process id is in it
//! store/            samples and state (see `store`)
//! store.bad-1       a store that was damaged, moved aside
//! store.opening     the store is being opened, or that ended the process
//! epoch-a, epoch-b  epoch and used total, outside of the store (see `mirror`)
//! trace-state       the counter of a trace source
//! status.json       what `simquota-edge status` shows while the agent runs
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Someone who only looks holds the lock for microseconds.
const LOCK_TRIES: u32 = 10;
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// Why the folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another agent has it.
    #[error(
        "the data folder {} is in use by another process{}: stop that agent, or give this one a folder of its own (`data`)",
        path.display(), pid.map(|pid| format!(" ({pid})")).unwrap_or_default()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Whose.
        pid: Option<u32>,
    },
    /// It can't be made or opened.
    #[error("cannot use the data folder {} ({source}): correct `data` or the folder's owner", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It is not there.
    #[error("there is no data folder {}: start the agent once, or correct `data`", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
}

/// The data folder, taken for this process until it is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Takes the folder, and makes it (for this user only) if it does not exist.
    ///
    /// # Errors
    /// [`FolderError::Locked`] when another process has it.
    pub fn take(path: &Path) -> Result<Folder, FolderError> {
        let unusable = |source| FolderError::Unusable {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(unusable)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(unusable)?;
        let mut tries = 1;
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::Error(source) => return Err(unusable(source)),
                TryLockError::WouldBlock if tries < LOCK_TRIES => {
                    tries += 1;
                    sleep(LOCK_AGAIN);
                }
                TryLockError::WouldBlock => {
                    return Err(FolderError::Locked {
                        path: path.to_owned(),
                        pid: read_pid(&mut lock),
                    });
                }
            }
        }
        // For people and for `status`; the lock itself is what counts.
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(unusable)?;
        Ok(Folder {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// As [`take`](Self::take), but never makes a folder.
    ///
    /// # Errors
    /// [`FolderError::Missing`] too.
    pub fn take_existing(path: &Path) -> Result<Folder, FolderError> {
        if !path.is_dir() {
            return Err(FolderError::Missing {
                path: path.to_owned(),
            });
        }
        Folder::take(path)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store is.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Whether an agent ever ran in that folder.
    #[must_use]
    pub fn holds_a_store(path: &Path) -> bool {
        path.join("store").exists()
    }

    /// Where a trace source keeps its counter.
    #[must_use]
    pub fn trace_state(path: &Path) -> PathBuf {
        path.join("trace-state")
    }
}

fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_second_process_is_refused_and_told_whose_folder_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        assert!(matches!(
            Folder::take_existing(&path),
            Err(FolderError::Missing { .. })
        ));
        let folder = Folder::take(&path).unwrap();
        // Locks belong to the open file, so a second opening stands for a second process.
        let text = Folder::take(&path).unwrap_err().to_string();
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        assert!(text.contains("data"), "{text}");
        drop(folder);
        Folder::take_existing(&path).unwrap();
    }

    #[test]
    fn a_path_that_is_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, b"").unwrap();
        let text = Folder::take(&path).unwrap_err().to_string();
        assert!(text.contains("data"), "{text}");
    }
}
