//! The pipeline: receive, verify, admit, decide, commit, send, acknowledge.
//!
//! One thread owns the ledger and the store. A batch is what arrived while the last one was made durable; there is
//! no timer. Nothing is sent and nothing acknowledged before the batch's entries are durable. After a failure
//! nothing in memory is trusted: the ledger is read anew from the store, and the batch is tried again message by
//! message. Brokers and devices repeat what was lost on the way, and a repeat moves nothing.

mod inbox;
mod live;
mod operators;
mod post;
mod presence;
mod publisher;
mod readonly;
mod summary;
mod upkeep;
mod watch;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use simquota_shared::ids::DeviceId;
use simquota_shared::units::{EntryNumber, UnixMillis};

pub(crate) use inbox::{Inbox, Lane, Notice};
pub(crate) use operators::node_status;

use super::admission::{Admission, busy};
use super::clock::{self, Monotonic};
use super::hooks::Hooks;
use super::http::Observed;
use super::mqtt::{Deadline, Delivery};
use super::query::Desk;
use super::serve::ServeError;
use super::store::{Store, StoreError};
use super::verify::{Said, Verifier};
use crate::charging::{Outgoing, Query, Refusal, Rules, Turn, Verdict, named_entry};
use crate::config::Config;
use crate::ledger::entry::{Cause, Entry, Subject};
use crate::ledger::{Broken, Ledger, explain};
use live::Lives;
use operators::Operators;
use post::{Post, Sent};
use presence::{Heard, Presence};
use publisher::Publisher;
use readonly::ReadOnly;
use summary::Summaries;
use watch::{JumpWatch, ProbeWatch};

/// How often a message is tried before it is rejected.
const TRIES: u32 = 3;
const SECOND_MS: u64 = 1000;
/// How the topic of a credit request ends.
const CREDIT: &str = "/up/credit";
/// Parts of answers that one loop sends, so that a long answer does not hold up the devices.
const ANSWERS_A_LOOP: usize = 8;
/// Events that one loop sends.
const EVENTS_A_LOOP: usize = 32;
/// Parts of answers that wait; a further answer is dropped, its asker asks again.
const ANSWERS_MAX: usize = 20_000;
const ANSWER_PAUSE: Duration = Duration::from_millis(5);
/// How long the connections may take to say goodbye: a little longer than they take at most.
const GOODBYE_MS: u64 = 3000;

/// Why a batch was not carried out.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a batch came to, durable already.
#[derive(Default)]
struct Done {
    outgoing: Vec<Outgoing>,
    refusals: Vec<(usize, Refusal)>,
    queries: Vec<Query>,
}

/// The loop's state.
pub(super) struct Pipeline {
    store: Option<Store>,
    store_folder: PathBuf,
    ledger: Ledger,
    rules: Rules,
    verifier: Verifier,
    admission: Admission<Monotonic>,
    post: Post,
    inbox: Arc<Inbox>,
    desk: Desk,
    operators: Operators,
    observed: Arc<Observed>,
    publisher: Publisher,
    hooks: Hooks,
    summaries: Summaries,
    answers: VecDeque<Outgoing>,
    presence: Presence,
    lives: Lives,
    probes: ProbeWatch,
    jumps: JumpWatch,
    /// Failures of the sweeper in a row; at the bound it stops.
    sweep_failures: u32,
    sweep_due: bool,
    /// The second in which what walks over the whole ledger is due.
    look_due_s: u64,
    /// How far devices were looked at for silence.
    silence: Option<DeviceId>,
    read_only: Option<ReadOnly>,
    checkpointed: EntryNumber,
    checkpoint_entries: u64,
    batch_max: usize,
    send_wait_ms: u64,
    unsent_logged: u64,
}

/// What the service made for the loop.
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) ledger: Ledger,
    pub(super) verifier: Verifier,
    pub(super) control: super::mqtt::Line,
    pub(super) usage: super::mqtt::Line,
    pub(super) node_key: ed25519_dalek::SigningKey,
    pub(super) inbox: Arc<Inbox>,
    pub(super) desk: Desk,
    /// Up to where events were published.
    pub(super) published: EntryNumber,
    pub(super) observed: Arc<Observed>,
    pub(super) hooks: Hooks,
}

impl Pipeline {
    pub(super) fn new(config: &Config, parts: Parts) -> Self {
        let limits = &config.limits;
        Self {
            checkpointed: parts.ledger.last,
            store: Some(parts.store),
            store_folder: config.store_folder(),
            ledger: parts.ledger,
            rules: config.rules.clone(),
            verifier: parts.verifier,
            admission: Admission::new(limits.admission, Monotonic),
            post: Post {
                control: parts.control,
                usage: parts.usage,
                node: config.node.clone(),
                node_key: parts.node_key,
                unsent: 0,
            },
            inbox: parts.inbox,
            desk: parts.desk,
            operators: Operators::new(config.node.clone(), limits.rejected_per_s),
            publisher: Publisher::new(parts.published),
            observed: parts.observed,
            hooks: parts.hooks,
            summaries: Summaries::default(),
            answers: VecDeque::new(),
            presence: Presence::default(),
            lives: Lives::default(),
            look_due_s: 0,
            probes: ProbeWatch::new(config.broker.self_test),
            jumps: JumpWatch::new(clock::now(), clock::monotonic_ms()),
            sweep_failures: 0,
            sweep_due: false,
            silence: None,
            read_only: None,
            checkpoint_entries: config.checkpoint_entries,
            batch_max: limits.batch_max,
            send_wait_ms: limits.send_wait_ms,
            unsent_logged: 0,
        }
    }

    /// Runs until it is asked to stop.
    ///
    /// # Errors
    /// When the store is gone for good: the process must end, and its supervisor or a person starts it again.
    pub(super) fn run(mut self) -> Result<(), ServeError> {
        let mut next_second_ms = clock::monotonic_ms();
        let mut seconds = 0_u64;
        loop {
            let idle = self.answers.is_empty() && self.lives.is_empty();
            let wait = match (self.sweep_due, idle) {
                (true, _) => Duration::ZERO,
                (false, true) => {
                    Duration::from_millis(next_second_ms.saturating_sub(clock::monotonic_ms()))
                }
                (false, false) => ANSWER_PAUSE,
            };
            let taken = self.inbox.take(self.batch_max, wait);
            for notice in taken.notices {
                self.noticed(notice);
            }
            if !taken.deliveries.is_empty() {
                self.batch(&taken.deliveries)?;
            }
            self.go_on_with_lives(clock::steady());
            self.send_answers();
            self.send_events();
            if taken.stop {
                return self.finish();
            }
            let now_ms = clock::monotonic_ms();
            if now_ms >= next_second_ms {
                next_second_ms = now_ms.saturating_add(SECOND_MS);
                seconds = seconds.wrapping_add(1);
                self.second(seconds)?;
            }
            if self.sweep_due {
                self.sweep()?;
            }
        }
    }

    /// One batch. Acknowledged to the broker at its end, whatever became of each message.
    fn batch(&mut self, works: &[(Lane, Delivery)]) -> Result<(), ServeError> {
        self.operators.figures.received = self
            .operators
            .figures
            .received
            .saturating_add(works.len() as u64);
        let metrics = &self.observed.metrics;
        metrics.batch.observe(works.len() as f64);
        for (lane, delivery) in works {
            metrics.received.with_label_values(&[lane.name()]).inc();
            self.probes.heard(*lane, delivery.generation());
        }
        if self.read_only.is_some() {
            self.turn_away(works);
            return Ok(());
        }
        match self.attempt(works, true) {
            Ok(done) => {
                self.conclude(done, works);
                Ok(())
            }
            Err(failure) => {
                self.recover(&failure)?;
                works
                    .iter()
                    .try_for_each(|work| self.alone(std::slice::from_ref(work)))
            }
        }
    }

    /// One message of a batch that failed: tried again, then rejected. The device's timer brings it back.
    fn alone(&mut self, work: &[(Lane, Delivery)]) -> Result<(), ServeError> {
        let mut why = String::new();
        for _ in 1..TRIES {
            if self.read_only.is_some() {
                self.turn_away(work);
                return Ok(());
            }
            match self.attempt(work, false) {
                Ok(done) => {
                    self.conclude(done, work);
                    return Ok(());
                }
                Err(failure) => {
                    why = failure.to_string();
                    self.recover(&failure)?;
                }
            }
        }
        let refusal = Refusal {
            reason: "failed",
            detail: format!("tried {TRIES} times: {why}"),
        };
        let done = Done {
            refusals: vec![(0, refusal)],
            ..Done::default()
        };
        self.conclude(done, work);
        Ok(())
    }

    /// Verifies, admits, decides and makes durable. On failure the ledger in memory is not to be used any more.
    fn attempt(&mut self, works: &[(Lane, Delivery)], fresh: bool) -> Result<Done, Failure> {
        let now_ms = clock::monotonic_ms();
        let now = clock::steady();
        let mut done = Done::default();
        let mut turned_away = Vec::new();
        let mut turn = Turn::new(&mut self.ledger, &self.rules, now);
        for (index, (_, delivery)) in works.iter().enumerate() {
            let topic = delivery.topic().unwrap_or_default();
            let said = match self.verifier.read(topic, delivery.payload(), now_ms) {
                Ok(said) => said,
                Err(refusal) => {
                    done.refusals.push((index, refusal));
                    continue;
                }
            };
            let fleet = match &said {
                Said::Device { id, .. } => turn.fleet_of(id),
                // A command names any fleet it likes until its key is looked up: its author's limit has to do.
                Said::Command { .. } | Said::Event(_) | Said::Probe | Said::Nothing => None,
            };
            if fresh && let Err(retry_s) = self.admission.admit(&said, fleet) {
                done.refusals.push((index, rate_limited(retry_s)));
                turned_away.push((said, retry_s));
                continue;
            }
            let verdict = match said {
                Said::Device { id, kid, request } => {
                    let heard = Heard::of(&request);
                    let verdict = turn.device(&id, &kid, request)?;
                    if verdict == Verdict::Done
                        && let Some(fleet) = turn.fleet_of(&id)
                    {
                        self.presence.heard(&id, fleet, heard, now);
                    }
                    verdict
                }
                Said::Command {
                    fleet,
                    kid,
                    command,
                } => {
                    if let (Some(named), Some(store)) = (named_entry(&command), &self.store) {
                        turn.show(store.reader().entry(named)?);
                    }
                    turn.command(fleet.as_ref(), &kid, &command)?
                }
                Said::Event(entry) => {
                    self.publisher.came_back(entry);
                    Verdict::Done
                }
                Said::Probe | Said::Nothing => Verdict::Done,
            };
            match verdict {
                Verdict::Done => {}
                Verdict::Refused(refusal) => done.refusals.push((index, refusal)),
                Verdict::Query(query) => done.queries.push(query),
            }
        }
        let Turn {
            entries, outgoing, ..
        } = turn;
        done.outgoing = outgoing;
        // After the decisions: an answer with an older mark than one sent just before would send the device back.
        let answers = turned_away
            .iter()
            .filter_map(|(said, retry_s)| busy(&self.ledger, said, now, *retry_s));
        done.outgoing.extend(answers);
        self.commit(&entries)?;
        Ok(done)
    }

    fn commit(&mut self, entries: &[Entry]) -> Result<(), Failure> {
        if entries.is_empty() {
            return Ok(());
        }
        let Some(store) = &mut self.store else {
            return Err(StoreError::Poisoned(self.store_folder.clone()).into());
        };
        let started_ns = clock::monotonic_ns();
        store.commit(entries)?;
        self.observed
            .metrics
            .sync
            .observe(seconds(clock::monotonic_ns().saturating_sub(started_ns)));
        self.observed.durable(&self.ledger, entries);
        if tracing::enabled!(tracing::Level::DEBUG) {
            tell(entries);
        }
        self.publisher.look(&self.ledger, entries);
        self.hooks.look(&self.ledger, entries);
        let decided = entries
            .iter()
            .filter(|entry| matches!(entry.cause, Cause::Credit(_)))
            .count();
        let figures = &mut self.operators.figures;
        figures.decided = figures.decided.saturating_add(decided as u64);
        Ok(())
    }

    /// Sends, then acknowledges to the broker: what was done is durable.
    fn conclude(&mut self, done: Done, works: &[(Lane, Delivery)]) {
        let Done {
            mut outgoing,
            refusals,
            queries,
        } = done;
        let now = clock::steady();
        for (index, refusal) in refusals {
            if let Some((_, delivery)) = works.get(index) {
                let topic = delivery.topic().unwrap_or("(not text)");
                let payload = delivery.payload();
                let refused = &self.observed.metrics.refused;
                refused.with_label_values(&[refusal.reason]).inc();
                outgoing.extend(self.operators.refused(&refusal, topic, payload, now));
            }
        }
        let deadline = Deadline::within_ms(self.send_wait_ms);
        self.send_all(&outgoing, deadline);
        self.time_grants(works);
        // A wait of its own: a broker that was slow for the answers may be quick again.
        let deadline = Deadline::within_ms(self.send_wait_ms);
        self.post.acknowledge(works, deadline);
        self.ask(queries);
    }

    /// How long credit requests waited for what was just handed to the connection.
    fn time_grants(&self, works: &[(Lane, Delivery)]) {
        let now_ns = clock::monotonic_ns();
        for (_, delivery) in works {
            if delivery
                .topic()
                .is_some_and(|topic| topic.ends_with(CREDIT))
            {
                let waited_ns = now_ns.saturating_sub(delivery.arrived_ns());
                self.observed.metrics.grant.observe(seconds(waited_ns));
            }
        }
    }

    fn send_all(&mut self, outgoing: &[Outgoing], deadline: Deadline) {
        let now_ms = clock::monotonic_ms();
        for message in outgoing {
            if self
                .post
                .send(message, &mut self.verifier, now_ms, deadline)
                == Sent::NotNow
            {
                self.post.count_unsent();
            }
        }
    }

    /// Sends events that are new, and those again that did not come back.
    fn send_events(&mut self) {
        if !self.post.is_connected(Lane::Control) {
            return;
        }
        let due = self.publisher.due(clock::monotonic_ms(), EVENTS_A_LOOP);
        self.send_all(&due, Deadline::within_ms(0));
    }

    /// Sends some parts of answers out of the journal. What finds no place stays for the next loop.
    fn send_answers(&mut self) {
        let now_ms = clock::monotonic_ms();
        for _ in 0..ANSWERS_A_LOOP {
            let Some(answer) = self.answers.pop_front() else {
                return;
            };
            let at_once = Deadline::within_ms(0);
            if !self.post.is_connected(Lane::Control) {
                // Whoever asked asks again.
                self.answers.clear();
                self.lives = Lives::default();
            } else if self.post.send(&answer, &mut self.verifier, now_ms, at_once) == Sent::NotNow {
                self.answers.push_front(answer);
                return;
            }
        }
    }
}

/// Each decision under the name that the device's log has for what it sent.
fn tell(entries: &[Entry]) {
    for entry in entries {
        if let (Some(trace), Subject::Device(device)) = (explain::trace(entry), &entry.subject) {
            let cause = entry.cause.name();
            tracing::debug!(%device, trace, entry = entry.number.value(), cause, "decided and durable");
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a figure for a histogram")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn rate_limited(retry_s: u64) -> Refusal {
    Refusal {
        reason: "rate-limited",
        detail: format!("too many messages, told to come back in {retry_s} s"),
    }
}

/// Commits the entries of a turn outside of a running pipeline: at the start.
pub(super) fn commit_first(
    store: &mut Store,
    ledger: &mut Ledger,
    rules: &Rules,
    now: UnixMillis,
    admin: &simquota_shared::ids::KeyId,
) -> Result<(), ServeError> {
    let mut turn = Turn::new(ledger, rules, now);
    turn.bootstrap_admin(admin).map_err(ServeError::Broken)?;
    let Turn { entries, .. } = turn;
    store.commit(&entries)?;
    Ok(())
}
