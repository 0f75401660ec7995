//! The store: one state row and the rows of the outbox, in a fjall database.
//!
//! ```text
//! state  "state"                     the state row (CBOR, `Durable`)
//! rows   epoch, last number          a row (CBOR, `Row`); both 8 octets, big-endian
//! ```
//!
//! A commit is one atomic batch, synced before it returns. The key begins with the epoch, so that the next epoch
//! begins with one commit too: rows of another epoch are then as dead as those that the cloud has acknowledged.
//! Dead rows are never deleted one by one, which would give no disk back: a compaction filter drops them, by the
//! epoch and the watermark of the last commit.
//!
//! Acknowledged rows are kept for some days ([`Retention`]): a cloud that was restored from an older backup names a lower
//! mark, and gets them again. What is older, or more than there is room for, is dropped.

mod error;
mod filter;
mod retention;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use simquota_shared::units::{Epoch, Seq};

pub use error::StoreError;
use filter::{DropDead, Keep, Live};
pub use retention::Retention;

use super::clock;
use crate::agent::{Commit, Durable, DurableError, Load, Row};

const STATE_KEY: &[u8] = b"state";

/// So many dead rows are dropped at a time: about 2 MB of rows for 0.1 s of work.
const DEAD_MAX: u64 = 20_000;
/// A table is written anew for no fewer than these.
const WORTH: u64 = DEAD_MAX / 4;
/// How long a compaction waits for rows that are being written out. What is not out by then stays for the next.
const FLUSH_TRIES: u32 = 500;
const FLUSH_POLL: Duration = Duration::from_millis(10);

/// An open store. It belongs to one thread; a compaction runs beside it.
pub struct Store {
    path: PathBuf,
    database: Database,
    state: Keyspace,
    rows: Keyspace,
    keep: Arc<Keep>,
    live: Live,
    /// What compactions were told to keep.
    told: Live,
    /// Which acknowledged rows are kept.
    retention: Retention,
    /// The mark at which rows were last looked for that can be dropped.
    looked: Seq,
    /// Rows up to this number were dropped, or are being dropped.
    dropped: Seq,
    compaction: Option<JoinHandle<Result<(), fjall::Error>>>,
}

impl Store {
    /// Opens the store, or makes it; with the state row, if one was ever committed.
    ///
    /// # Errors
    /// [`StoreError`]; each says what to do.
    pub fn open(path: &Path) -> Result<(Store, Option<Durable>), StoreError> {
        // Nothing is dropped until the watermark is known.
        let keep = Arc::new(Keep::default());
        let database = open_database(path, &keep)?;
        let failed = |error| StoreError::from_fjall(path, error);
        let state = database.keyspace("state", options).map_err(failed)?;
        let rows = database.keyspace("rows", options).map_err(failed)?;
        let durable = match state.get(STATE_KEY).map_err(failed)? {
            Some(octets) => {
                Some(Durable::decode(&octets).map_err(|error| unreadable(path, error))?)
            }
            None => None,
        };
        let live = durable.as_ref().map_or(Live::default(), Live::of);
        let mut store = Store {
            path: path.to_owned(),
            database,
            state,
            rows,
            keep,
            live,
            told: Live::default(),
            retention: Retention::NONE,
            looked: Seq::ZERO,
            dropped: Seq::ZERO,
            compaction: None,
        };
        if durable.is_some() {
            // Who only looks drops nothing: what may go is known once the retention is.
            store.dropped = store.first_stored()?;
            store.looked = store.dropped;
        }
        Ok((store, durable))
    }

    /// Says which acknowledged rows are kept; none until then. Rows that may go are dropped, if they are many.
    pub fn retain(&mut self, retention: Retention) {
        self.retention = retention;
        self.looked = self.dropped;
        self.tidy_if_due();
    }

    /// Writes state and rows as one, durably.
    ///
    /// # Errors
    /// After any error the store takes no more writes: drop it and open it again.
    pub fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        let Commit { state, rows } = commit;
        // A disk that is full on demand, for tests that no root runs.
        #[cfg(test)]
        if self.path.with_extension("full").exists() {
            return Err(StoreError::Full {
                path: self.path.clone(),
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        let failed = |error| StoreError::from_fjall(&self.path, error);
        let mut batch = self
            .database
            .batch()
            .durability(Some(PersistMode::SyncData));
        let octets = state.encode().map_err(|error| self.unwritable(&error))?;
        batch.insert(&self.state, STATE_KEY, octets);
        for row in rows {
            let octets = row.encode().map_err(|error| self.unwritable(&error))?;
            batch.insert(&self.rows, key(state.epoch, row.last()), octets);
        }
        batch.commit().map_err(failed)?;
        let live = Live::of(state);
        // After the commit: what is not durable must not drop anything.
        if live.epoch != self.live.epoch {
            self.dropped = Seq::ZERO;
            self.looked = Seq::ZERO;
            self.tell(Live {
                acked: Seq::ZERO,
                ..live
            });
        } else if live.acked < self.told.acked {
            self.tell(live);
        }
        self.live = live;
        self.tidy_if_due();
        Ok(())
    }

    /// The rows of the present epoch whose last number is `from` or more, in order.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn load(&self, load: Load) -> Result<Vec<Row>, StoreError> {
        let Load { from, rows_max } = load;
        let range = key(self.live.epoch, from)..=key(self.live.epoch, Seq(u64::MAX));
        self.rows
            .range(range)
            .take(rows_max)
            .map(|guard| {
                let octets = guard
                    .value()
                    .map_err(|error| StoreError::from_fjall(&self.path, error))?;
                Row::decode(&octets).map_err(|error| unreadable(&self.path, error))
            })
            .collect()
    }

    /// Octets that the store takes on disk.
    ///
    /// # Errors
    /// When the system can't say.
    pub fn disk_octets(&self) -> Result<u64, StoreError> {
        self.database
            .disk_space()
            .map_err(|error| StoreError::from_fjall(&self.path, error))
    }

    /// Drops dead rows now, and waits for it.
    ///
    /// # Errors
    /// When that fails; nothing that is alive is lost by it.
    pub fn compact(&mut self) -> Result<(), StoreError> {
        self.begin_compaction(0);
        self.await_compaction()
    }

    fn unwritable(&self, error: &simquota_shared::codec::CodecError) -> StoreError {
        StoreError::Unwritable {
            path: self.path.clone(),
            why: error.to_string(),
        }
    }

    /// The number before the first one that is stored: everything up to it was dropped already.
    fn first_stored(&self) -> Result<Seq, StoreError> {
        let first = self.load(Load {
            from: Seq::ZERO,
            rows_max: 1,
        })?;
        let before = |row: &Row| Seq(row.seq.0.saturating_sub(1));
        Ok(first.first().map_or(self.live.acked, before))
    }

    fn tidy_if_due(&mut self) {
        let finished = self
            .compaction
            .as_ref()
            .is_some_and(JoinHandle::is_finished);
        if finished && let Err(error) = self.await_compaction() {
            tracing::warn!(%error, "acknowledged rows were not dropped");
        }
        if self.compaction.is_none() && self.live.acked.beyond(self.looked) >= DEAD_MAX {
            self.begin_compaction(WORTH);
        }
    }

    fn tell(&mut self, live: Live) {
        self.told = live;
        self.keep.set(live);
    }

    /// The last number that may be dropped. The mark may have fallen below rows that are gone: never beyond it.
    fn droppable(&self) -> Result<Seq, StoreError> {
        let now_s = clock::wall_ms() / 1000;
        let acked = self.live.acked;
        let range = key(self.live.epoch, Seq::ZERO)..=key(self.live.epoch, acked);
        let mut room = self.retention.room(now_s);
        for guard in self.rows.range(range).rev() {
            let octets = guard
                .value()
                .map_err(|error| StoreError::from_fjall(&self.path, error))?;
            let row = Row::decode(&octets).map_err(|error| unreadable(&self.path, error))?;
            if !room.takes(&row, octets.len()) {
                return Ok(row.last());
            }
        }
        Ok(self.dropped.min(acked))
    }

    /// Drops what may go, if it is this many numbers at least.
    fn begin_compaction(&mut self, least: u64) {
        if self.compaction.is_some() {
            return;
        }
        self.looked = self.live.acked;
        let upto = match self.droppable() {
            Ok(upto) => upto,
            Err(error) => {
                return tracing::warn!(%error, "acknowledged rows were not dropped");
            }
        };
        if upto.beyond(self.dropped) < least {
            return;
        }
        self.tell(Live {
            acked: upto,
            ..self.live
        });
        let rows = self.rows.clone();
        let thread = std::thread::Builder::new().name("compact".to_owned());
        match thread.spawn(move || compact(&rows)) {
            Ok(thread) => {
                self.compaction = Some(thread);
                self.dropped = self.dropped.max(upto);
            }
            Err(error) => tracing::warn!(%error, "no thread to drop acknowledged rows"),
        }
    }

    fn await_compaction(&mut self) -> Result<(), StoreError> {
        let Some(thread) = self.compaction.take() else {
            return Ok(());
        };
        match thread.join() {
            Ok(result) => result.map_err(|error| StoreError::from_fjall(&self.path, error)),
            Err(_) => Err(StoreError::damaged(&self.path, "a compaction panicked")),
        }
    }
}

impl Drop for Store {
    /// Waits for a compaction, which would keep the store locked.
    fn drop(&mut self) {
        if let Err(error) = self.await_compaction() {
            tracing::warn!(%error, "acknowledged rows were not dropped");
        }
    }
}

fn compact(rows: &Keyspace) -> Result<(), fjall::Error> {
    rows.rotate_memtable()?;
    let mut tries = 0;
    // Not for ever: on a full disk nothing ever gets written out.
    while rows.sealed_memtable_count() > 0 && tries < FLUSH_TRIES {
        tries += 1;
        sleep(FLUSH_POLL);
    }
    rows.major_compact()
}

/// Small: 8 MB of memory on a device with a backlog of months (facts were measured with these figures).
fn open_database(path: &Path, keep: &Arc<Keep>) -> Result<Database, StoreError> {
    let keep = Arc::clone(keep);
    let builder = Database::builder(path)
        .cache_size(256 * 1024)
        .worker_threads(1)
        .max_cached_files(Some(16))
        .max_journaling_size(64 * 1024 * 1024)
        .with_compaction_filter_factories(Arc::new(move |keyspace| {
            let drops = keyspace == "rows";
            drops.then(|| Arc::new(DropDead::new(Arc::clone(&keep))) as _)
        }));
    // Recovery takes some damage for a broken promise of its own and panics. That is a damaged store as well. In the
    // device's program nothing catches a panic: there `attempt` counts.
    match catch_unwind(AssertUnwindSafe(|| builder.open())) {
        Ok(opened) => opened.map_err(|error| StoreError::from_fjall(path, error)),
        Err(_) => Err(StoreError::damaged(path, "recovery panicked")),
    }
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(1024 * 1024)
}

fn key(epoch: Epoch, last: Seq) -> [u8; 16] {
    ((u128::from(epoch.0) << 64) | u128::from(last.0)).to_be_bytes()
}

fn unreadable(path: &Path, error: DurableError) -> StoreError {
    match error {
        DurableError::Damaged { row, source } => {
            StoreError::damaged(path, format!("its {row} row: {source}"))
        }
        DurableError::Version(version) => StoreError::Version {
            path: path.to_owned(),
            version: version.to_string(),
        },
    }
}
