//! A private copy of a store, for an audit: the database changes what it opens, and the evidence must stay.
//!
//! Tables are never written again: they are linked where that is possible, and cost no space. The other files are small
//! but for the log files, of which the whole batches are copied.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use super::look::{Depth, Looked, look};
use super::{Store, StoreError, locked};

/// A store as it was seen, every octet of it.
pub struct Seen {
    /// What is not as it was written, in words.
    pub faults: Vec<String>,
    /// What is worth a word and proves nothing.
    pub notes: Vec<String>,
    /// A copy of the store, to be read; none where the database takes it for damaged, which is a fault.
    pub store: Option<Store>,
    // Dropped last: it removes the copy's folder.
    _copy: Option<PrivateCopy>,
}

struct PrivateCopy(PathBuf);

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        // What can't be removed is in the way of nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Looks at every octet of a store that no process has open, and opens a copy of it. The folder is not changed.
///
/// # Errors
/// [`StoreError`] when it is not there, in use, or there is no place for a copy. What is wrong with it is no error.
pub fn see(folder: &Path) -> Result<Seen, StoreError> {
    if !folder.join("version").is_file() {
        return Err(StoreError::Missing(folder.to_owned()));
    }
    let lock = locked(folder)?;
    let mut looked = look(folder, Depth::Whole)?;
    let copied = copy(folder, &looked).map_err(|source| StoreError::io(folder, "copied", source));
    drop(lock);
    let copied = copied?;
    let store = match looked.unreadable {
        true => None,
        false => match Store::open_database(&copied.0) {
            Ok(store) => Some(store),
            Err(error) => {
                looked.faults.push(error.to_string());
                None
            }
        },
    };
    if let (Some(store), Some(guard)) = (&store, &looked.guard)
        && let Err(error) = store.holds(guard)
    {
        looked.faults.push(error.to_string());
    }
    Ok(Seen {
        faults: looked.faults,
        notes: looked.notes,
        store,
        _copy: Some(copied),
    })
}

/// Beside the store, where tables can be linked; else where temporary files are.
fn copy(folder: &Path, looked: &Looked) -> io::Result<PrivateCopy> {
    let name = format!("audit-{}", process::id());
    let own = folder.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.with_file_name(format!("{own}.{name}"));
    let place = match fs::create_dir(&beside) {
        Ok(()) => PrivateCopy(beside),
        Err(_) => {
            let place = std::env::temp_dir().join(format!("simquota-{name}"));
            fs::create_dir(&place)?;
            PrivateCopy(place)
        }
    };
    for (file, finished) in &looked.files {
        let (from, to) = (folder.join(file), place.0.join(file));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
            // The database wants one in each keyspace.
            if folder
                .parent()
                .is_some_and(|parent| parent.ends_with("keyspaces"))
            {
                fs::create_dir_all(folder.join("tables"))?;
            }
        }
        if *finished && !from.exists() {
            continue;
        }
        if !*finished || fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to)?;
        }
    }
    for log in &looked.logs {
        log.copy_to(&place.0.join(format!("{}.jnl", log.id)))?;
    }
    Ok(place)
}
