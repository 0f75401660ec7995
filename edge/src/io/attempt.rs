//! Opening a store that ends the process: counted, so that it does not end it for ever.
//!
//! Recovery takes some damage for a broken promise of its own and panics; another kind makes it ask for more memory than any
//! machine has. Where panics unwind the first is caught; in the device's program a panic ends the process, and the second
//! does so everywhere. So a file beside the store says that an opening has begun, and it is gone when the opening has ended,
//! well or not:
//!
//! ```text
//! store.opening     the kernel's boot id, and how many openings since that boot have begun and not ended
//! ```
//!
//! After [`ATTEMPTS_MAX`] of them the store counts as damaged. Power cuts do not count: they come with another boot.

use std::io;
use std::path::{Path, PathBuf};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// So many openings of one store may end the process.
pub(super) const ATTEMPTS_MAX: u32 = 2;

/// An opening that has begun.
pub(super) struct Attempt {
    note: PathBuf,
    /// Openings before this one, since the kernel's boot, that did not end.
    pub(super) unfinished: u32,
}

impl Attempt {
    /// Notes that an opening begins.
    pub(super) fn begin(store: &Path) -> io::Result<Attempt> {
        let boot_id = std::fs::read_to_string(BOOT_ID)?;
        let note = store.with_extension("opening");
        let before = std::fs::read_to_string(&note).unwrap_or_default();
        let unfinished = before
            .split_once(' ')
            .filter(|(boot, _)| *boot == boot_id.trim())
            .and_then(|(_, count)| count.trim().parse().ok())
            .unwrap_or(0);
        let attempt = Attempt { note, unfinished };
        // No sync: only a power cut could lose it, and that is another boot.
        let count = unfinished.saturating_add(1);
        std::fs::write(&attempt.note, format!("{} {count}\n", boot_id.trim()))?;
        Ok(attempt)
    }

    /// Notes that it has ended.
    pub(super) fn end(self) {
        if let Err(error) = std::fs::remove_file(&self.note) {
            tracing::warn!(file = %self.note.display(), %error, "a file was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn openings_that_do_not_end_are_counted_since_the_boot() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        assert_eq!(Attempt::begin(&store).unwrap().unfinished, 0);
        assert_eq!(Attempt::begin(&store).unwrap().unfinished, 1);
        let third = Attempt::begin(&store).unwrap();
        assert_eq!(third.unfinished, 2);
        third.end();
        assert_eq!(Attempt::begin(&store).unwrap().unfinished, 0);
        // Of another boot, or nothing that we wrote.
        for text in ["0000 7\n", "", "7"] {
            std::fs::write(store.with_extension("opening"), text).unwrap();
            assert_eq!(Attempt::begin(&store).unwrap().unfinished, 0, "{text:?}");
        }
    }
}
