//! What the pipeline does besides messages: sweeping, checkpoints, recovery, the orderly end.

use std::time::Duration;

use simquota_shared::ids::DeviceId;

use super::inbox::Lane;
use super::{Failure, Pipeline, SECOND_MS, TRIES};
use crate::charging::Turn;
use crate::io::clock;
use crate::io::metrics::whole;
use crate::io::mqtt::Deadline;
use crate::io::serve::ServeError;
use crate::io::store::{Store, StoreError};

/// Leases, packages and commands that one sweep settles; what is more comes with the next loop.
const SWEEP_MAX: usize = 500;
/// Devices that one sweep looks at for silence: a walk over all of them may take its minutes.
const SILENCE_MAX: usize = 1000;
const STATISTICS_SECONDS: u64 = 5;
/// How long a store that failed may stay locked by a reader before the service gives up.
const REOPEN_MS: u64 = 30_000;
const REOPEN_POLL: Duration = Duration::from_millis(50);

impl Pipeline {
    /// Everything that happens by time.
    pub(super) fn second(&mut self, seconds: u64) -> Result<(), ServeError> {
        self.operators.second();
        self.admission.forget_idle();
        let now = (clock::now(), clock::monotonic_ms());
        self.try_promising(seconds)?;
        self.sweep_due = self.jumps.look(now.0, now.1)
            && self.sweep_failures < TRIES
            && self.read_only.is_none();
        for (lane, silent) in self.probes.look(clock::monotonic_ms()) {
            self.observed.silent(lane, silent);
            if silent {
                tracing::error!(
                    %lane,
                    "subscriptions do not deliver: check the broker's access control, or set broker.self_test = false"
                );
            } else {
                tracing::info!(%lane, "subscriptions deliver after all");
            }
            self.say_status("serving");
        }
        self.show();
        if seconds.is_multiple_of(STATISTICS_SECONDS) {
            self.operators.log_refusals();
            self.say_statistics();
            self.log_unsent();
        }
        self.look_at_all(seconds);
        self.keep_cursor();
        if self.read_only.is_none()
            && self.ledger.last.beyond(self.checkpointed) >= self.checkpoint_entries
        {
            self.checkpoint();
        }
        Ok(())
    }

    /// Gauges and fleets' totals: walks over the whole ledger, for a hundredth of the time at most.
    fn look_at_all(&mut self, seconds: u64) {
        if seconds < self.look_due_s {
            return;
        }
        let began_ms = clock::monotonic_ms();
        self.observed.metrics.look(&self.ledger);
        self.say_summaries();
        let took_ms = clock::monotonic_ms().saturating_sub(began_ms);
        let pause_s = took_ms.saturating_mul(100).div_ceil(SECOND_MS);
        self.look_due_s = seconds.saturating_add(pause_s.max(STATISTICS_SECONDS));
    }

    /// Throws the ledger in memory away and reads it anew. After a failed write the store is opened anew as well:
    /// nobody knows whether that write is there until it is looked for.
    pub(super) fn recover(&mut self, failure: &Failure) -> Result<(), ServeError> {
        match failure {
            Failure::Broken(broken) => {
                tracing::error!(%broken, "decision failed, ledger read anew: report this");
            }
            Failure::Store(error) => {
                tracing::error!(%error, "commit failed, store opened anew");
                return self.reopened();
            }
        }
        if let Some(store) = &self.store {
            self.ledger = store.load()?;
        }
        Ok(())
    }

    /// A reader that still answers a question holds the lock for a moment.
    pub(super) fn reopen(&self) -> Result<Store, StoreError> {
        let deadline = Deadline::within_ms(REOPEN_MS);
        loop {
            match Store::open(&self.store_folder) {
                Err(StoreError::Locked(_)) if !deadline.left().is_zero() => {
                    std::thread::sleep(REOPEN_POLL);
                }
                opened => return opened,
            }
        }
    }

    /// Lets leases run out and packages end; what is left of it is due in the next loop, after the next batch.
    pub(super) fn sweep(&mut self) -> Result<(), ServeError> {
        let mut turn = Turn::new(&mut self.ledger, &self.rules, clock::steady());
        let (from, presence) = (self.silence.take(), &self.presence);
        let swept = turn.sweep(SWEEP_MAX).and_then(|more| {
            let seen = |id: &DeviceId| presence.last(id);
            self.silence = turn.watch_silence(from.as_ref(), SILENCE_MAX, seen)?;
            Ok(more)
        });
        let Turn {
            entries, outgoing, ..
        } = turn;
        let committed = swept
            .map_err(Failure::from)
            .and_then(|more| self.commit(&entries).map(|()| more));
        match committed {
            Ok(more) => {
                self.sweep_failures = 0;
                self.sweep_due = more;
                self.send_all(&outgoing, Deadline::within_ms(self.send_wait_ms));
                Ok(())
            }
            Err(failure) => {
                self.sweep_due = false;
                self.sweep_failures = self.sweep_failures.saturating_add(1);
                if self.sweep_failures == TRIES {
                    tracing::error!(
                        "sweeper stopped, leases do not run out any more: report this and start the service again"
                    );
                }
                self.recover(&failure)
            }
        }
    }

    /// What changes by itself, for whoever scrapes.
    fn show(&self) {
        let metrics = &self.observed.metrics;
        for (lane, messages, octets) in self.inbox.waiting() {
            let lane = [lane.name()];
            metrics.queue.with_label_values(&lane).set(whole(messages));
            let gauge = metrics.queue_bytes.with_label_values(&lane);
            gauge.set(whole(octets));
        }
        metrics
            .events_pending
            .set(whole(self.publisher.under_way()));
        let lag = self.ledger.last.beyond(self.checkpointed);
        metrics.checkpoint_lag.set(whole(lag));
        let stopped = self.sweep_failures >= TRIES || self.jumps.stopped();
        metrics.sweeper_stopped.set(i64::from(stopped));
        let unsent = self.post.unsent.saturating_add(self.inbox.dropped());
        let before = metrics.unsent.get();
        metrics.unsent.inc_by(unsent.saturating_sub(before));
    }

    /// Finds events that were not looked at yet, and keeps the cursor. A cursor that gets lost with power costs
    /// nothing but some events again.
    fn keep_cursor(&mut self) {
        let Some(store) = &mut self.store else {
            return;
        };
        let looked = self.publisher.catch_up(&self.ledger, &store.reader());
        let kept = looked
            .and_then(|()| match self.publisher.moved() {
                Some(cursor) => store.keep_published(cursor),
                None => Ok(()),
            })
            .and_then(|()| self.hooks.keep_up(&self.ledger, store));
        if let Err(error) = kept {
            tracing::warn!(%error, "cursor of events not kept");
        }
    }

    fn checkpoint(&mut self) {
        let Some(store) = &mut self.store else {
            return;
        };
        let started_ms = clock::monotonic_ms();
        // Whether it worked or not: the next try is after as many entries again.
        self.checkpointed = self.ledger.last;
        match store.checkpoint(&self.ledger) {
            Ok(()) => {
                let took_ms = clock::monotonic_ms().saturating_sub(started_ms);
                let entry = self.ledger.last.value();
                tracing::info!(entry, took_ms, "checkpoint written");
            }
            // Nothing is lost: the journal has everything, and the next commit says whether the disk works.
            Err(error) => tracing::warn!(%error, "no checkpoint written"),
        }
    }

    /// The orderly end.
    pub(super) fn finish(mut self) -> Result<(), ServeError> {
        self.observed.stopping();
        self.hooks.stop();
        self.keep_cursor();
        if self.read_only.is_none() && self.ledger.last > self.checkpointed {
            self.checkpoint();
        }
        if self.post.is_connected(Lane::Control) {
            let stopped = self.operators.status(false, "stopped", clock::steady());
            self.send_all(stopped.as_slice(), Deadline::within_ms(self.send_wait_ms));
        }
        self.say_goodbye();
        self.operators.log_refusals();
        tracing::info!(entries = self.ledger.last.value(), "stopped");
        Ok(())
    }
}
