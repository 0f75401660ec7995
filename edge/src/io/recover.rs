//! Opens store and mirror together, and makes the best of what is there (DESIGN section 4, "When the two sides
//! disagree").
//!
//! | store | mirror | what happens |
//! |---|---|---|
//! | whole | not ahead of it | it goes on |
//! | whole | ahead of it, or of an epoch that it does not know | it has lost commits: a new epoch closes the mirror's |
//! | damaged | readable | it is moved aside, a new epoch closes the mirror's |
//! | damaged | nothing | it is moved aside, a new epoch closes nothing: the cloud settles the old one |
//! | empty | readable | it was lost: a new epoch closes the mirror's |
//! | empty | nothing | the first start |
//! | twice ended the process that opened it | | it counts as damaged |
//!
//! A new epoch takes its first state from here, and it is committed by the agent's first step.

use std::io;
use std::path::{Path, PathBuf};

use simquota_shared::ids::ZoneId;
use simquota_shared::message::Closes;
use simquota_shared::units::Epoch;

use super::attempt::{ATTEMPTS_MAX, Attempt};
use super::folder::Folder;
use super::mirror::{Mirror, Mirrored};
use super::store::{Store, StoreError};
use crate::agent::Durable;

/// So many damaged stores are kept for whoever wants to look at them.
const BAD_MAX: u32 = 3;

/// Why nothing can be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files that mirror the epoch.
    #[error("cannot use the files epoch-a and epoch-b in {} ({source}): correct the folder's owner or free some space", path.display())]
    Mirror {
        /// The data folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A damaged store can't be moved.
    #[error("the damaged store {} cannot be moved aside ({source}): move it by hand", path.display())]
    MoveAside {
        /// The store.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What an agent starts on.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The files beside it.
    pub mirror: Mirror,
    /// The state to start from; none at the first start.
    pub state: Option<Durable>,
}

/// Opens store and mirror. `fresh` is the epoch to begin if that is needed.
///
/// # Errors
/// When the store is locked, not ours to use, of another version, or has no space.
pub fn open(folder: &Folder, fresh: Epoch, zone: &ZoneId) -> Result<Opened, RecoverError> {
    let mirror = Mirror::open(folder.path()).map_err(|source| RecoverError::Mirror {
        path: folder.path().to_owned(),
        source,
    })?;
    let (store, found) = open_store(&folder.store())?;
    let state = match (found, mirror.last()) {
        (None, None) => None,
        (Some(state), None) => Some(state),
        (Some(state), Some(last)) if agree(&state, last) => Some(state),
        (Some(state), Some(last)) => {
            tracing::error!(
                epoch = last.epoch,
                used = last.used,
                stored_epoch = state.epoch.0,
                stored_used = state.used.0,
                "the store had lost commits; a new epoch closes the old one (check the disk)"
            );
            Some(Durable {
                iccid: state.iccid.clone(),
                policy: state.policy.clone(),
                key_generation: state.key_generation,
                ..closing(last, fresh, &state.zone)
            })
        }
        (None, Some(last)) => {
            tracing::error!(
                epoch = last.epoch,
                used = last.used,
                "the store was gone; a new epoch closes the old one (check the disk)"
            );
            Some(closing(last, fresh, zone))
        }
    };
    Ok(Opened {
        store,
        mirror,
        state,
    })
}

/// Moves a store aside that was found to be damaged only after it was opened. Drop it before.
///
/// # Errors
/// When it can't be moved.
pub fn set_aside(folder: &Folder) -> Result<(), RecoverError> {
    let path = folder.store();
    let aside = move_aside(&path)?;
    tracing::error!(store = %path.display(), aside = %aside.display(), "damaged store was moved aside");
    Ok(())
}

fn open_store(path: &Path) -> Result<(Store, Option<Durable>), RecoverError> {
    let attempt = match Attempt::begin(path) {
        Ok(attempt) => Some(attempt),
        Err(error) => {
            // A full disk is no reason not to try.
            tracing::warn!(%error, "the opening of the store is not noted");
            None
        }
    };
    if let Some(attempt) = &attempt
        && attempt.unfinished >= ATTEMPTS_MAX
        && path.exists()
    {
        let aside = move_aside(path)?;
        tracing::error!(store = %path.display(), aside = %aside.display(), attempts = attempt.unfinished, "the store ended the process that opened it, again and again, and was moved aside");
    }
    let opened = open_or_replace(path);
    if let Some(attempt) = attempt {
        attempt.end();
    }
    opened
}

fn open_or_replace(path: &Path) -> Result<(Store, Option<Durable>), RecoverError> {
    match Store::open(path) {
        Ok(opened) => Ok(opened),
        Err(StoreError::Damaged { why, .. }) => {
            let aside = move_aside(path)?;
            tracing::error!(store = %path.display(), aside = %aside.display(), why, "damaged store was moved aside");
            Ok(Store::open(path)?)
        }
        Err(other) => Err(other.into()),
    }
}

/// Renames it to the first free of `.bad-1` to `.bad-3`; the third gives way to newer ones.
fn move_aside(path: &Path) -> Result<PathBuf, RecoverError> {
    let failed = |source| RecoverError::MoveAside {
        path: path.to_owned(),
        source,
    };
    let named = |number: u32| path.with_extension(format!("bad-{number}"));
    let free = (1..=BAD_MAX).map(named).find(|aside| !aside.exists());
    let aside = match free {
        Some(aside) => aside,
        None => {
            let last = named(BAD_MAX);
            std::fs::remove_dir_all(&last).map_err(failed)?;
            last
        }
    };
    std::fs::rename(path, &aside).map_err(failed)?;
    Ok(aside)
}

/// The mirror is written after the store. It may be behind, also by the beginning of an epoch, and never ahead.
fn agree(state: &Durable, last: &Mirrored) -> bool {
    let same = last.epoch() == state.epoch && last.used() <= state.used;
    let before = state.closes.as_ref().map(|closes| closes.epoch) == Some(last.epoch());
    same || before
}

fn closing(last: &Mirrored, fresh: Epoch, zone: &ZoneId) -> Durable {
    let closes = Closes {
        epoch: last.epoch(),
        total: last.used(),
    };
    Durable {
        position: last.position(),
        // Whatever ended it was no orderly end.
        clean: false,
        ..Durable::fresh(fresh, Some(closes), zone.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use simquota_shared::units::Octets;

    use super::*;
    use crate::agent::Commit;

    const FRESH: Epoch = Epoch(99);

    struct Device(tempfile::TempDir);

    impl Device {
        fn new() -> Device {
            Device(tempfile::tempdir().unwrap())
        }

        fn open(&self) -> Result<Opened, RecoverError> {
            let folder = Folder::take(self.0.path()).unwrap();
            open(&folder, FRESH, &ZoneId::home())
        }

        fn commit(&self, epoch: u64, used: u64, mirrored: bool) {
            let mut opened = self.open().unwrap();
            let state = state(epoch, used);
            opened
                .store
                .commit(&Commit {
                    state: state.clone(),
                    rows: Vec::new(),
                })
                .unwrap();
            if mirrored {
                opened.mirror.write(&state).unwrap();
            }
        }

        fn store(&self) -> PathBuf {
            self.0.path().join("store")
        }
    }

    fn state(epoch: u64, used: u64) -> Durable {
        Durable {
            used: Octets(used),
            ..Durable::fresh(Epoch(epoch), None, ZoneId::home())
        }
    }

    #[test]
    fn the_first_start_has_no_state() {
        assert!(Device::new().open().unwrap().state.is_none());
    }

    #[test]
    fn a_whole_store_goes_on_also_with_an_older_mirror() {
        let device = Device::new();
        device.commit(7, 100, true);
        device.commit(7, 200, false);
        assert_eq!(device.open().unwrap().state, Some(state(7, 200)));
    }

    #[test]
    fn a_new_epoch_that_the_mirror_has_not_seen_goes_on() {
        let device = Device::new();
        device.commit(7, 100, true);
        let mut opened = device.open().unwrap();
        let closes = Closes {
            epoch: Epoch(7),
            total: Octets(150),
        };
        let next = Durable::fresh(Epoch(8), Some(closes), ZoneId::home());
        let commit = Commit {
            state: next.clone(),
            rows: Vec::new(),
        };
        opened.store.commit(&commit).unwrap();
        drop(opened);
        assert_eq!(device.open().unwrap().state, Some(next));
    }

    fn assert_closes(opened: &Opened, epoch: u64, total: u64) {
        let state = opened.state.as_ref().unwrap();
        assert_eq!((state.epoch, state.used), (FRESH, Octets::ZERO));
        let expected = Closes {
            epoch: Epoch(epoch),
            total: Octets(total),
        };
        assert_eq!(state.closes, Some(expected));
    }

    #[test]
    fn a_store_that_lost_commits_is_closed_at_the_mirrors_total() {
        let device = Device::new();
        device.commit(7, 100, true);
        let Opened { mut mirror, .. } = device.open().unwrap();
        mirror.write(&state(7, 200)).unwrap();
        assert_closes(&device.open().unwrap(), 7, 200);
    }

    #[test]
    fn a_store_of_an_older_epoch_than_the_mirrors_is_closed_too() {
        let device = Device::new();
        device.commit(7, 100, true);
        let Opened { mut mirror, .. } = device.open().unwrap();
        mirror.write(&state(8, 50)).unwrap();
        assert_closes(&device.open().unwrap(), 8, 50);
    }

    #[test]
    fn a_lost_store_is_closed_by_the_mirror() {
        let device = Device::new();
        device.commit(7, 100, true);
        std::fs::remove_dir_all(device.store()).unwrap();
        assert_closes(&device.open().unwrap(), 7, 100);
        // The new epoch was not committed: the next start finds the same.
        assert_closes(&device.open().unwrap(), 7, 100);
    }

    fn blank(folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                blank(&path);
            } else {
                std::fs::write(path, [0; 64]).unwrap();
            }
        }
    }

    #[test]
    fn damaged_stores_are_moved_aside_and_only_three_are_kept() {
        let device = Device::new();
        for _ in 0..5 {
            device.commit(7, 100, true);
            blank(&device.store().join("keyspaces"));
            assert_closes(&device.open().unwrap(), 7, 100);
        }
        let bad = |number: u32| device.0.path().join(format!("store.bad-{number}"));
        assert!((1..=3).all(|number| bad(number).is_dir()));
        assert!(!bad(4).exists());
    }

    #[test]
    fn a_store_that_ends_the_process_twice_is_moved_aside() {
        let device = Device::new();
        device.commit(7, 100, true);
        // What an end in the middle of an opening leaves behind.
        let ended = || drop(Attempt::begin(&device.store()).unwrap());
        ended();
        assert_eq!(device.open().unwrap().state, Some(state(7, 100)), "once");
        ended();
        ended();
        assert_closes(&device.open().unwrap(), 7, 100);
        assert!(device.0.path().join("store.bad-1").is_dir());
    }

    #[test]
    fn a_store_of_another_version_is_left_where_it_is() {
        let device = Device::new();
        let mut opened = device.open().unwrap();
        let newer = Durable {
            version: 99,
            ..state(7, 1)
        };
        let commit = Commit {
            state: newer,
            rows: Vec::new(),
        };
        opened.store.commit(&commit).unwrap();
        drop(opened);
        let Err(error) = device.open() else {
            panic!("opened a state row of another version");
        };
        assert!(error.to_string().contains("99"), "{error}");
        assert!(!device.0.path().join("store.bad-1").exists());
    }
}
