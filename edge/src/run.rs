//! The running agent: one thread that owns the pure agent, store, meter and gate.
//!
//! ```text
//! broker task ──┐
//! link watch  ──┼─> one queue ─> inputs ─> shell::step ─> gate, store, broker
//! orders      ──┘
//! ```
//!
//! What happens elsewhere comes in through one queue; between events the thread sleeps until the agent wants to be
//! woken. A life of the agent ends with an orderly end, with its epoch, or with a store that failed; after the last
//! two another one begins on what the store holds, over a new connection, because the broker learns the will of the
//! new start only that way.

mod channels;
mod life;
mod line;
mod metering;
mod notice;
mod queue;
mod reload;
mod status;
#[cfg(test)]
mod tests;
mod world;

use std::thread::JoinHandle;
use std::time::Duration;

use simquota_shared::units::Epoch;
use tokio::runtime::Handle;

use crate::agent::Durable;
use crate::config::Settings;
use crate::io::clock;
use crate::io::counter::SourceError;
use crate::io::folder::{Folder, FolderError};
use crate::io::gate::GateError;
use crate::io::mqtt::OptionsError;
use crate::io::recover::{self, Opened, RecoverError};
use crate::io::store::{Retention, StoreError};
use life::Ending;
pub use queue::{Control, Orders, channel};
pub use status::Snapshot;
use world::Machine;

/// A store that failed is opened again after 1 s, doubling to 30 s.
const REOPEN_MS_FIRST: u64 = 1_000;
const REOPEN_MS_MAX: u64 = 30_000;
/// What reading a long journal again may take, for the service manager.
const OPEN_WITHIN_S: u64 = 120;
/// A life that lasted this long was a good one.
const GOOD_LIFE_MS: u64 = 60_000;

/// Why the agent can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The store.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The meter.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The broker's options.
    #[error(transparent)]
    Broker(#[from] OptionsError),
    /// The store failed and was not back when the end was asked for.
    #[error("ended without a store: {0}")]
    Store(#[from] StoreError),
    /// No thread or runtime.
    #[error("the system gives no thread ({0}): free some memory or raise the limit of tasks")]
    Thread(std::io::Error),
    /// No epoch could be drawn.
    #[error("the system gives no random numbers ({0}): check the device's entropy source")]
    Random(getrandom::Error),
    /// A defect of ours; it was reported when it happened.
    #[error("the agent panicked: report this with the log")]
    Panicked,
}

/// What is left when the agent has ended in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The last status.
    pub last: Snapshot,
}

impl Ended {
    /// Whether all that was metered is in the ledger and what was left of the grant is given back. What is not goes
    /// out after the next start.
    #[must_use]
    pub fn settled(&self) -> bool {
        let agent = &self.last.agent;
        agent.backlog == 0 && agent.unsynced == 0 && !agent.request_open && agent.held.is_none()
    }
}

/// Runs the agent on this thread until it is told to end.
///
/// The connection to the broker lives on `runtime`, which needs its I/O and time drivers and must go on meanwhile.
///
/// # Errors
/// When it can't begin: folder or store in use, no interface, a trace that can't be played. A broker that can't be
/// reached is not an error. Once it runs, a store that fails is opened again and again; it ends with an error only
/// if it is told to end before that succeeds.
pub fn run(settings: &Settings, orders: Orders, runtime: &Handle) -> Result<Ended, RunError> {
    let span = tracing::info_span!("edge", device = %settings.enrolment.device);
    let _entered = span.enter();
    orders.service.slow_start(OPEN_WITHIN_S);
    let folder = Folder::take(&settings.data)?;
    let opened = recover::open(&folder, fresh_epoch()?, &settings.agent.zone)?;
    let (mut machine, mut state) = Machine::new(settings, orders, runtime, opened)?;
    let mut reopen_ms = REOPEN_MS_FIRST;
    loop {
        let begun_ms = clock::monotonic_ms();
        match machine.live(state, fresh_epoch()?)? {
            Ending::Done(last) => {
                tracing::info!(
                    used = last.agent.used,
                    backlog = last.agent.backlog,
                    "agent ended"
                );
                return Ok(Ended { last: *last });
            }
            Ending::NewEpoch(first) => {
                tracing::warn!(epoch = first.epoch.0, "a new epoch began");
                state = Some(*first);
            }
            Ending::StoreFailed(error) => {
                if clock::monotonic_ms().saturating_sub(begun_ms) >= GOOD_LIFE_MS {
                    reopen_ms = REOPEN_MS_FIRST;
                }
                state = reopen(&mut machine, &folder, error, &mut reopen_ms)?;
            }
        }
    }
}

/// Opens the store again until that works. The gate is shut meanwhile.
fn reopen(
    machine: &mut Machine,
    folder: &Folder,
    mut error: StoreError,
    wait_ms: &mut u64,
) -> Result<Option<Durable>, RunError> {
    loop {
        tracing::error!(%error, retry_ms = *wait_ms, "store failed, the gate is shut");
        if machine.wait_without_store(&error, *wait_ms) {
            return Err(error.into());
        }
        *wait_ms = wait_ms.saturating_mul(2).min(REOPEN_MS_MAX);
        if matches!(error, StoreError::Damaged { .. }) {
            recover::set_aside(folder)?;
        }
        match recover::open(folder, fresh_epoch()?, &machine.settings.agent.zone) {
            Ok(opened) => {
                let Opened {
                    mut store,
                    mirror,
                    state,
                } = opened;
                // Where the disk was full, room for what is new goes before a copy of what is not.
                store.retain(match error {
                    StoreError::Full { .. } => Retention::NONE,
                    _ => machine.settings.retention,
                });
                machine.take_store(store, mirror);
                tracing::warn!("store was opened again");
                return Ok(state);
            }
            Err(RecoverError::Store(again)) => error = again,
            Err(other) => return Err(other.into()),
        }
    }
}

fn fresh_epoch() -> Result<Epoch, RunError> {
    // 0 is no epoch: it would read as one that was never set.
    getrandom::u64()
        .map(|drawn| Epoch(drawn.max(1)))
        .map_err(RunError::Random)
}

/// An agent on a thread of its own.
pub struct Running {
    /// Orders for it.
    pub control: Control,
    thread: JoinHandle<Result<Ended, RunError>>,
}

impl Running {
    /// Waits for its end, which does not come by itself: see [`Control::shutdown`].
    ///
    /// # Errors
    /// As [`run`].
    pub fn join(self) -> Result<Ended, RunError> {
        self.thread.join().unwrap_or(Err(RunError::Panicked))
    }

    /// Whether it has ended.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Runs the agent on a thread of its own.
///
/// # Errors
/// When there is no thread; everything else comes from [`Running::join`].
pub fn spawn(settings: Settings, runtime: Handle) -> Result<Running, RunError> {
    let (control, orders) = channel();
    let thread = std::thread::Builder::new()
        .name("edge".to_owned())
        .spawn(move || run(&settings, orders, &runtime))
        .map_err(RunError::Thread)?;
    Ok(Running { control, thread })
}

/// A runtime for the connections of agents: one thread, shared by as many as there are.
///
/// # Errors
/// When there is no thread.
pub fn runtime() -> Result<tokio::runtime::Runtime, RunError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("mqtt")
        .enable_all()
        .build()
        .map_err(RunError::Thread)
}

/// How long the goodbye to the broker may take, and the wait for the word that it is over.
const GOODBYE_MS: u64 = 2_000;
const GOODBYE_WAIT: Duration = Duration::from_millis(GOODBYE_MS + 1_500);
