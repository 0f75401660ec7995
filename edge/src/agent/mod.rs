//! The agent: what the device decides, and nothing else.
//!
//! [`Agent::step`] takes one [`Input`] and the time and returns [`Effects`]. There is no clock, no randomness, no
//! I/O, no async and no logging in this module: the same inputs give the same effects, byte for byte. The real
//! shell (`io`) and the simulator run it unchanged.
//!
//! # The shell's order
//!
//! What is promised is durable before anyone hears it. For every step the shell does, in this order:
//!
//! 1. apply [`Effects::lower`] to the gate;
//! 2. if [`Effects::read`] is set: read the meter, step with [`Input::Reading`] (or [`Input::NoReading`]), and go on
//!    with the effects of that step. A step that asks for a reading asks for nothing else but `lower`;
//! 3. commit [`Effects::store`], state and rows as one, durably. If that fails, step with [`Input::StoreFailed`],
//!    apply its `lower`, and build another agent from the store with [`Agent::start`];
//! 4. apply [`Effects::raise`];
//! 5. publish [`Effects::publish`], in order;
//! 6. if [`Effects::load`] is set: load the rows and step with [`Input::Rows`];
//! 7. step with [`Input::Tick`] at [`Effects::wake_at_ms`], unless something else came before.
//!
//! A crash between any two of these loses only what was neither durable nor promised: un-synced octets are still in
//! the kernel's counter (the stored [`Position`] is that of the last row), a request that was committed and not
//! published is replaced by the *initial* of the next start, rows that were committed and not published are sent
//! again. After a commit the shell may drop rows up to `state.acked`, never others.
//!
//! Lost publishes need no report: everything that is unanswered is sent again by the agent's timers.
//!
//! # States and what they react to
//!
//! The states are derived, not stored: a start is always *starting*, whatever was before.
//!
//! | state | what it means | leaves it by |
//! |---|---|---|
//! | `starting` | the gate is shut, the meter is not read yet | the first reading: everything held is given up (`ceiling = U`), boot + 1 is durable -> `registering` |
//! | `registering` | `up/register` is sent at each connect and by timer | an accepted answer of this epoch and boot -> *initial*, reason boot |
//! | `asking` | a cut was made and waits for its answer, or for a connection | the answer -> `open` or `exhausted` |
//! | `open` | valid grant, octets left | ceiling -> `exhausted`; end of validity -> `asking`; holding time -> `idle`; command, switch, shutdown |
//! | `exhausted` | valid answer, nothing left | a push or the answer to an *update* that raises the ceiling -> `open`; end of validity -> `asking` |
//! | `idle` | everything given back by a *final* | traffic, or *re-authorise* -> *initial* |
//! | `suspended` | a command took the grant back | *resume*, *re-authorise* or a start asks; a decided 2001 opens |
//! | `off-sim` | another network is in use: nothing is metered, reports go on | [`Input::ReturnSim`] -> *initial* |
//! | `shutting-down` | last rows, *final*, report | answered and acknowledged, or the time is over -> `stopped` |
//! | `new-epoch` | the two sides disagree for good: gate shut | [`Effects::new_epoch`], see [`Agent::successor`] |
//!
//! | input | action |
//! |---|---|
//! | reading | octets are added to the open sample, split at the ceiling; the sample ends at the interval |
//! | little left, 80 % of validity, nothing left | *update*, the ceiling stays; with the report |
//! | zone or SIM changed | the row ends, the gate shuts, *initial* |
//! | answer, push | by rules R1, R2, R3, R5, R7: accepted, committed, and only then the gate is raised |
//! | acknowledgement | the mark moves; a gap goes back to it |
//! | tuned | the configuration was read again: what is asked for, read and synced from now on |
//! | synced | how long a commit took: the armed window follows it |
//! | command | applied, committed, acknowledged; a repeat gets the stored outcome |
//! | connected | status, registration or outstanding request at once, backlog |
//!
//! # Where each rule is kept
//!
//! | rule | where |
//! |---|---|
//! | R1 epoch in every message | first lines of `on_credit`, `on_register`, `on_usage_ack`, `on_command` |
//! | R2 only a cut gives up a ceiling | `credit::cut`, `credit::give_up`, order in [`Agent::step`] |
//! | R3 validity from the first sending | `answer::accept_answer`, `credit::abandon`, `time::take_server` |
//! | R4, R5 decided once | answers that are no decision change nothing; the same number has the same bytes (`credit::send_credit`) |
//! | R6 the larger ceiling | `answer::accept` |
//! | R7 pushes | `answer::judge` |
//! | allowance, bootstrap, connect budget | `credit::cut_at_boot`, `answer::accept`, `plan_budget` |
//! | acknowledgement, totals decide | `outbox` |
//! | overrun, number 23; meter identity, number 8 | `meter` |
//! | times and batches, number 28 | `time`, `batch` |
//! | the armed window, section 6 | `window` |
//! | held, number 21 | `credit::give_up` |
//! | commands, number 26 | `command` |

mod answer;
mod batch;
mod command;
mod config;
mod credit;
mod doubt;
mod durable;
mod effects;
mod gate;
mod input;
mod meter;
mod outbox;
mod register;
mod rows;
mod step;
mod time;
mod view;
mod wake;
mod window;

#[cfg(test)]
mod tests;

use simquota_shared::ids::{ChannelId, Iccid, ZoneId};
use simquota_shared::message::Closes;
use simquota_shared::message::usage::flag;
use simquota_shared::units::{Boot, Epoch, Octets};

pub use batch::{OCTETS_MAX as BATCH_OCTETS_MAX, ROWS_MAX as BATCH_ROWS_MAX, batch};
pub use config::AgentConfig;
pub use durable::{
    AnswerKey, CreditState, Durable, DurableError, Identity, OUTCOMES_MAX, Position, Row,
    STATE_VERSION,
};
pub use effects::{Commit, Disagreement, Effects, Load, Notice, Outgoing, Up};
pub use gate::GateState;
pub use input::{Input, Now, Reading, Tuning};
pub use view::StatusView;

use credit::Asking;
use meter::Meter;
use outbox::Outbox;
use register::Registration;
use time::Time;
use window::Pace;

/// The connection to the broker.
#[derive(Clone, Debug, Default)]
struct Link {
    connected: bool,
    channel: Option<ChannelId>,
    /// How many there were since the start.
    connection: u64,
}

/// Something about the SIM that ends a row.
#[derive(Clone, Debug)]
enum Change {
    Sim(Iccid),
    Zone(ZoneId),
}

/// Control traffic past the stop: one budget per step of the timer, so that no device is bricked.
#[derive(Clone, Copy, Debug)]
struct Budget {
    stop: Octets,
    next_ms: u64,
}

/// The agent. See [the module's page](self).
#[derive(Clone, Debug)]
pub struct Agent {
    config: AgentConfig,
    /// As it will be after the next commit; its position and total are those of the last row.
    state: Durable,
    /// Rows that wait for their commit.
    rows: Vec<Row>,
    /// Since when.
    rows_since_ms: u64,
    meter: Meter,
    time: Time,
    now: Now,
    /// As last told to the shell.
    gate: GateState,
    link: Link,
    registration: Registration,
    asking: Asking,
    outbox: Outbox,
    budget: Budget,
    /// What the gate had dropped at the last reading, and octets beyond the ceiling then that it may still name.
    dropped_seen: u64,
    beyond_unexplained: u64,
    /// How far the stop moved along with those octets since the last cut.
    moved_since_cut: u64,
    /// What the last answer left to use, and how fast that goes: the armed window follows both.
    granted: u64,
    pace: Pace,
    /// When the running sample interval ends, and when the meter is read next.
    sample_ms: u64,
    poll_ms: u64,
    started_ms: u64,
    booting: bool,
    /// Not on the SIM.
    off: bool,
    /// The SIM is being left because its link was lost.
    lost: bool,
    change: Option<Change>,
    report_asked: bool,
    /// The next row begins a batch.
    apart: bool,
    /// The end of the epoch, and not before when.
    retiring: Option<(Disagreement, u64)>,
    /// An orderly end, and not after when.
    shutting: Option<u64>,
    stopped: bool,
    /// The state differs from what was committed.
    dirty: bool,
    outbound: Vec<Outgoing>,
    notices: Vec<Notice>,
}

impl Agent {
    /// Starts the agent on what the store holds; `fresh_epoch` is used only when it holds nothing.
    ///
    /// The effects lower the gate and ask for a reading: every start gives up what was granted, and counts as a boot.
    #[must_use]
    pub fn start(
        config: AgentConfig,
        durable: Option<Durable>,
        fresh_epoch: Epoch,
        now: Now,
    ) -> (Self, Effects) {
        let mut state =
            durable.unwrap_or_else(|| Durable::fresh(fresh_epoch, None, config.zone.clone()));
        let unclean = !state.clean;
        state.boot = Boot(state.boot.0.saturating_add(1));
        state.clean = false;
        if state.iccid.is_none() {
            state.iccid = config.iccid.clone();
        }
        let waiting = if unclean { flag::UNCLEAN } else { 0 };
        let started_ms = now.mono_ms;
        let sample_ms = state.policy.sample_s.max(1).saturating_mul(1000);
        let report_ms = state.policy.report_s.max(1).saturating_mul(1000);
        let gate = GateState::shut(state.credit.ceiling, state.credit.stop);
        let mut agent = Self {
            meter: Meter::new(state.position.clone(), state.used, waiting),
            outbox: Outbox::new(
                state.acked,
                state.last_seq(),
                started_ms.saturating_add(report_ms),
            ),
            config,
            state,
            rows: Vec::new(),
            rows_since_ms: started_ms,
            time: Time::new(started_ms),
            now,
            gate: gate.clone(),
            link: Link::default(),
            registration: Registration::new(),
            asking: Asking {
                traffic_ms: started_ms,
                ..Asking::default()
            },
            budget: Budget {
                stop: Octets::ZERO,
                next_ms: started_ms.saturating_add(step::BUDGET_MS),
            },
            dropped_seen: 0,
            beyond_unexplained: 0,
            moved_since_cut: 0,
            granted: 0,
            pace: Pace::default(),
            sample_ms: started_ms.saturating_add(sample_ms),
            poll_ms: started_ms,
            started_ms,
            booting: true,
            off: false,
            lost: false,
            change: None,
            report_asked: false,
            apart: false,
            retiring: None,
            shutting: None,
            stopped: false,
            dirty: true,
            outbound: Vec::new(),
            notices: Vec::new(),
        };
        let mut effects = agent.step(Input::Tick, now);
        // What the gate was before nobody knows.
        effects.lower = Some(gate);
        (agent, effects)
    }

    /// One step.
    pub fn step(&mut self, input: Input, now: Now) -> Effects {
        let mut effects = Effects::default();
        if self.stopped {
            return effects;
        }
        self.now = now;
        self.watch_clock();
        let was_shut = !self.gate.open;
        let read = matches!(input, Input::Reading(_) | Input::NoReading);
        self.take(input);
        // Off the SIM there is nothing to read.
        let fresh = read || self.off;
        self.plan_cut();
        self.settle(fresh && was_shut, fresh, &mut effects);
        effects
    }

    /// Takes note of an input.
    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Reading(reading) => self.on_reading(&reading),
            Input::NoReading => self.read_again_later(),
            Input::Connected(channel) => self.on_connected(channel),
            Input::Disconnected => self.on_disconnected(),
            Input::Register(answer) => self.on_register(&answer),
            Input::Credit(answer) => self.on_credit(&answer),
            Input::UsageAck(ack) => self.on_usage_ack(&ack),
            Input::Command(command) => self.on_command(&command),
            Input::Rows(rows) => self.on_rows(&rows),
            Input::GateBlocked => self.on_traffic(),
            Input::SimChanged(iccid) => self.on_sim_changed(iccid),
            Input::ZoneChanged(zone) => {
                if zone != self.state.zone {
                    self.change = Some(Change::Zone(zone));
                }
            }
            Input::LeaveSim => self.on_leave(false),
            Input::LoseSim(last) => {
                if let Some(last) = &last {
                    self.on_reading(last);
                }
                self.on_leave(true);
            }
            Input::ReturnSim => self.on_return(),
            Input::Tuned(tuning) => self.on_tuned(tuning),
            Input::Synced { took_ms } => self.pace.synced(took_ms),
            Input::Shutdown => self.on_shutdown(),
            Input::StoreFailed => self.stopped = true,
        }
    }

    /// Usage and credit need a registration of this start (DESIGN section 11, number 27).
    fn can_send(&self) -> bool {
        self.link.connected && self.registration.accepted && self.retiring.is_none()
    }

    /// The state as it will be after the next commit.
    #[must_use]
    pub const fn state(&self) -> &Durable {
        &self.state
    }

    /// The used total, octets that are not durable yet included.
    #[must_use]
    pub const fn used(&self) -> Octets {
        self.meter.used()
    }

    /// The gate as last asked for.
    #[must_use]
    pub const fn gate(&self) -> &GateState {
        &self.gate
    }

    /// Octets metered and not durable yet.
    #[must_use]
    pub fn unsynced(&self) -> u64 {
        let rows = self.rows.iter();
        let waiting: u64 = rows.map(|row| row.up.saturating_add(row.down)).sum();
        waiting.saturating_add(self.meter.open().part.octets())
    }

    /// The first state of the next epoch: it closes this one, and goes on with meter, SIM and policy.
    ///
    /// Called when [`Effects::new_epoch`] was seen and its commit is done.
    #[must_use]
    pub fn successor(&self, epoch: Epoch) -> Durable {
        let closes = Closes {
            epoch: self.state.epoch,
            total: self.meter.used(),
        };
        let before = &self.state;
        Durable {
            position: self.meter.position(),
            iccid: before.iccid.clone(),
            policy: before.policy.clone(),
            command_number: before.command_number,
            outcomes: before.outcomes.clone(),
            key_generation: before.key_generation,
            unsure: before.unsure,
            ..Durable::fresh(epoch, Some(closes), before.zone.clone())
        }
    }
}
