//! When the store takes no writes: nothing is promised, nothing that was promised is lost, and it goes on by itself.
//!
//! The disk is full, a sync failed, the file system was remounted for reading. The service stays up: it answers devices
//! with "busy" and where the ledger stands, refuses commands, says so on its status, and tries every few seconds
//! whether the store takes a write again. What devices report stays on the devices until then. A store that is damaged
//! is another matter: then the service ends, and says what to restore.

use super::{Delivery, Done, Lane, Pipeline, Refusal};
use crate::io::admission::busy;
use crate::io::clock;
use crate::io::serve::ServeError;
use crate::io::store::{Store, StoreError};
use crate::ledger::Ledger;

/// How often it is tried whether the store takes writes again.
const TRY_SECONDS: u64 = 5;
/// When turned-away devices may come back.
const RETRY_S: u64 = 15;

/// The store takes no writes.
pub(super) struct ReadOnly {
    why: String,
    /// The ledger in memory is what the store holds; where the store can't even be read, nobody is told a mark.
    loaded: bool,
}

impl Pipeline {
    /// What the status says of it.
    pub(super) fn read_only_state(&self) -> Option<String> {
        let ReadOnly { why, loaded: _ } = self.read_only.as_ref()?;
        Some(format!("read-only: {why}"))
    }

    /// After a failed write: opens the store anew and reads it. It may still take no writes.
    pub(super) fn reopened(&mut self) -> Result<(), ServeError> {
        self.store = None;
        Store::forget_cached(&self.store_folder);
        match self.reopen().and_then(|store| Ok((store.load()?, store))) {
            Ok((ledger, mut store)) => {
                let writable = store.test_write();
                self.ledger = ledger;
                self.store = Some(store);
                match writable {
                    Ok(()) => self.promise_again(),
                    Err(error) => self.promise_nothing(&error, true),
                }
                Ok(())
            }
            Err(error) if may_pass(&error) => {
                self.ledger = Ledger::default();
                self.promise_nothing(&error, false);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn promise_nothing(&mut self, error: &StoreError, loaded: bool) {
        let why = error.to_string();
        if self.read_only.is_none() {
            tracing::error!(
                why,
                "read-only: nothing is promised until the store takes writes again, which is tried every {TRY_SECONDS} s"
            );
        }
        self.observed.read_only(Some(why.clone()));
        self.read_only = Some(ReadOnly { why, loaded });
        self.say_status("serving");
    }

    fn promise_again(&mut self) {
        if self.read_only.take().is_some() {
            self.observed.read_only(None);
            tracing::info!(
                entries = self.ledger.last.value(),
                "the store takes writes again, promises are made again"
            );
            self.say_status("serving");
        }
    }

    /// Looks whether it is over.
    pub(super) fn try_promising(&mut self, seconds: u64) -> Result<(), ServeError> {
        if self.read_only.is_some() && seconds.is_multiple_of(TRY_SECONDS) {
            self.reopened()?;
        }
        Ok(())
    }

    /// Takes messages and promises nothing: they are acknowledged to the broker, and their senders come back.
    pub(super) fn turn_away(&mut self, works: &[(Lane, Delivery)]) {
        let (now_ms, now) = (clock::monotonic_ms(), clock::steady());
        let loaded = self.read_only.as_ref().is_some_and(|state| state.loaded);
        let mut done = Done::default();
        for (index, (_, delivery)) in works.iter().enumerate() {
            let topic = delivery.topic().unwrap_or_default();
            let refusal = match self.verifier.read(topic, delivery.payload(), now_ms) {
                Err(refusal) => refusal,
                Ok(said) => {
                    if loaded {
                        done.outgoing
                            .extend(busy(&self.ledger, &said, now, RETRY_S));
                    }
                    Refusal {
                        reason: "read-only",
                        detail: format!("the ledger takes no entries, come back in {RETRY_S} s"),
                    }
                }
            };
            done.refusals.push((index, refusal));
        }
        self.conclude(done, works);
    }
}

/// Whether waiting, or a person with a broom, mends it. A store that is damaged stays damaged.
fn may_pass(error: &StoreError) -> bool {
    match error {
        StoreError::Locked(_) | StoreError::Io { .. } | StoreError::Poisoned(_) => true,
        StoreError::Missing(_)
        | StoreError::Damaged { .. }
        | StoreError::Lost { .. }
        | StoreError::Format { .. }
        | StoreError::Unreadable { .. }
        | StoreError::DoesNotFit { .. }
        | StoreError::NotNext { .. }
        | StoreError::Unwritable { .. } => false,
    }
}
