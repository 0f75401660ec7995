//! What stands between the device and its SIM.
//!
//! The agent speaks of positions on the used-total axis. A gate turns them into what it can enforce. What lets
//! traffic pass, and how far, is the same for all of them: [`Reach`].
//!
//! | gate | what it does |
//! |---|---|
//! | `observe` | needs no right and stops nothing; it counts what would have been stopped |
//! | `trace` | tells a trace source how far it may deliver: exact, because the trace waits |
//! | `nft` | a table of nftables in the kernel, see [`nft`]; needs CAP_NET_ADMIN and the `nft` program |
//! | `command` | tells a program of yours, see [`command`] |

pub mod command;
mod kernel;
mod limits;
pub mod nft;
mod program;
pub mod rules;
mod watch;

use std::io;

use simquota_shared::units::Octets;

use super::counter::Source;
use crate::agent::GateState;

/// How far traffic may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The used total at the last reading.
    pub used: Octets,
    /// The position where traffic stops; never before `used`.
    pub until: Octets,
}

impl Reach {
    /// What a gate state lets through, when `used` octets are used.
    #[must_use]
    pub fn of(state: &GateState, used: Octets) -> Reach {
        let until = match state.open {
            // What was used cannot be stopped any more.
            true => state.ceiling.min(state.armed).max(used),
            false => used,
        };
        Reach { used, until }
    }

    /// Octets that may still pass after the last reading.
    #[must_use]
    pub const fn room(self) -> u64 {
        self.until.beyond(self.used)
    }

    /// The same limit on the counter, which showed `counted` octets (up + down) at the last reading.
    #[must_use]
    pub const fn on_counter(self, counted: u64) -> u64 {
        // A counter ends at 64 bits: a limit beyond that is none.
        counted.saturating_add(self.room())
    }
}

/// Octets on the SIM that a gate tells apart from all others; 0 where it can't.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    /// The agent's own, since the gate was opened.
    pub own: u64,
    /// Delivered by the SIM and dropped by the gate, since its table was made.
    pub dropped: u64,
}

/// The kinds of gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateKind {
    /// Stops nothing, counts.
    Observe,
    /// Limits a trace source.
    Trace,
    /// A table in the kernel.
    Nft,
    /// A program of the user's.
    Command,
}

impl GateKind {
    /// What the agent calls it towards the cloud.
    #[must_use]
    pub const fn capability(self) -> &'static str {
        match self {
            GateKind::Observe => "gate-observe",
            GateKind::Trace => "gate-trace",
            GateKind::Nft => "gate-nft",
            GateKind::Command => "gate-command",
        }
    }
}

/// Why a gate can't be had or set.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// `nft` or the hook can't be started.
    #[error("cannot run `{program}` ({source}): install it or correct gate.kind")]
    NoProgram {
        /// The program.
        program: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The program said no.
    #[error(
        "`{program}` refused the gate ({said}): run the agent as root or with CAP_NET_ADMIN, on a kernel with nftables"
    )]
    Refused {
        /// The program.
        program: String,
        /// Its first line.
        said: String,
    },
    /// The kernel said no.
    #[error("the kernel refused the gate ({0}): is its table still there?")]
    Kernel(io::Error),
    /// Another agent's.
    #[error("the gate's table belongs to a process that runs: end that agent first")]
    InUse,
    /// Limits are built on the counts, so they are no limits any more.
    #[error("somebody else set the counts of the gate's table back: leave its table alone")]
    SetBack,
}

/// A gate outside of this process.
enum Fence {
    Nft(Box<nft::NftGate>),
    Command(command::CommandGate),
}

/// A gate. It begins shut.
pub struct Gate {
    kind: GateKind,
    fence: Option<Fence>,
    /// As last asked for.
    state: Option<GateState>,
    /// Why it could not be set.
    error: Option<String>,
    reach: Reach,
    /// Octets that passed and should not have.
    passed: u64,
    /// Whether that was said since the gate was set.
    said: bool,
}

impl Gate {
    /// A gate that lets nothing pass yet. Call it before the first reading.
    pub fn shut(kind: GateKind, source: &mut dyn Source) -> Gate {
        match kind {
            GateKind::Trace => source.limit(Some(0)),
            GateKind::Observe | GateKind::Nft | GateKind::Command => {}
        }
        Gate {
            kind,
            fence: None,
            state: None,
            error: None,
            reach: Reach {
                used: Octets::ZERO,
                until: Octets::ZERO,
            },
            passed: 0,
            said: true,
        }
    }

    /// A gate in the kernel. It begins shut.
    #[must_use]
    pub fn in_kernel(gate: nft::NftGate, source: &mut dyn Source) -> Gate {
        Gate {
            fence: Some(Fence::Nft(Box::new(gate))),
            ..Gate::shut(GateKind::Nft, source)
        }
    }

    /// A gate that a program of the user's makes.
    #[must_use]
    pub fn by_command(gate: command::CommandGate, source: &mut dyn Source) -> Gate {
        Gate {
            fence: Some(Fence::Command(gate)),
            ..Gate::shut(GateKind::Command, source)
        }
    }

    /// To be called just before the meter is read, so that the two counts belong together. Returns what the gate tells
    /// apart, where it can.
    pub fn before_reading(&mut self) -> Apart {
        let Some(Fence::Nft(gate)) = &mut self.fence else {
            return Apart::default();
        };
        match gate.before_reading() {
            Ok(apart) => apart,
            Err(error) => {
                self.failed(&error);
                // The table is gone: nothing stops traffic until it is there again.
                self.remake();
                Apart::default()
            }
        }
    }

    /// The meter of the interface of that index was read, after [`Gate::before_reading`]: limits may be built on what was
    /// counted then.
    pub fn after_reading(&mut self, index: u32) {
        let Some(Fence::Nft(gate)) = &mut self.fence else {
            return;
        };
        if let Err(error) = gate.after_reading(index) {
            self.failed(&error);
        }
    }

    /// Puts the gate where it belongs after somebody else touched it. It is shut until the next reading.
    pub fn remake(&mut self) {
        let Some(Fence::Nft(gate)) = &mut self.fence else {
            return;
        };
        match gate.remake() {
            Ok(()) => tracing::warn!(
                times = gate.remade(),
                "the gate's table was touched by somebody else and is made again; what passed meanwhile is metered"
            ),
            Err(error) => self.failed(&error),
        }
    }

    /// Takes the gate's table away: from then on nothing is stopped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take_away(&mut self) -> Result<(), GateError> {
        match self.fence.take() {
            Some(Fence::Nft(gate)) => gate.take_away(),
            other => {
                self.fence = other;
                Ok(())
            }
        }
    }

    /// How often that was.
    #[must_use]
    pub fn remade(&self) -> u64 {
        match &self.fence {
            Some(Fence::Nft(gate)) => gate.remade(),
            Some(Fence::Command(_)) | None => 0,
        }
    }

    /// Why it could not be set.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    fn failed(&mut self, error: &GateError) {
        let text = error.to_string();
        if self.error.as_ref() != Some(&text) {
            tracing::error!(%error, "the gate could not be set");
        }
        self.error = Some(text);
    }

    fn set_fence(&mut self) {
        let Some(state) = &self.state else {
            return;
        };
        let done = match &mut self.fence {
            None => Ok(()),
            Some(Fence::Nft(gate)) => gate.set(state, self.reach),
            Some(Fence::Command(gate)) => gate.set(state, self.reach),
        };
        match done {
            Ok(()) => self.error = None,
            Err(error) => self.failed(&error),
        }
    }

    /// Sets it. `counted` is what the counter showed (up + down) when `used` octets were used; without a reading yet
    /// nothing may pass.
    pub fn set(
        &mut self,
        state: &GateState,
        used: Octets,
        counted: Option<u64>,
        source: &mut dyn Source,
    ) {
        let reach = Reach::of(state, used);
        match self.kind {
            GateKind::Observe | GateKind::Nft | GateKind::Command => {}
            GateKind::Trace => {
                let limit = counted.map_or(0, |counted| reach.on_counter(counted));
                source.limit(Some(limit));
            }
        }
        if reach != self.reach {
            tracing::debug!(open = state.open, ceiling = %state.ceiling, %used, room = reach.room(), "gate set");
            self.said = false;
        }
        self.reach = reach;
        self.state = Some(state.clone());
        self.set_fence();
    }

    /// Takes note of the used total after a step.
    pub fn metered(&mut self, used: Octets) {
        let passed = used.beyond(self.reach.until.max(self.reach.used));
        self.reach.used = self.reach.used.max(used);
        // A new reading: the kernel's limit is brought in line with it.
        self.set_fence();
        if passed == 0 {
            return;
        }
        self.passed = self.passed.saturating_add(passed);
        if !std::mem::replace(&mut self.said, true) {
            let what = match self.kind {
                GateKind::Observe => "traffic passed that a gate in the kernel would have stopped",
                GateKind::Trace | GateKind::Nft | GateKind::Command => {
                    "traffic was metered beyond the gate: overrun"
                }
            };
            tracing::info!(octets = passed, until = %self.reach.until, "{what}");
        }
    }

    /// Octets that passed and should not have, since the start.
    #[must_use]
    pub const fn passed(&self) -> u64 {
        self.passed
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> GateKind {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::counter::{Reading, SourceError};
    use super::*;

    #[derive(Default)]
    struct Limited(Option<u64>);

    impl Source for Limited {
        fn read(&mut self, _: u64) -> Result<Reading, SourceError> {
            Err(SourceError::Closed)
        }
        fn limit(&mut self, position: Option<u64>) {
            self.0 = position;
        }
        fn finished(&self) -> bool {
            false
        }
        fn close(&mut self) {}
    }

    fn state(open: bool, ceiling: u64) -> GateState {
        GateState {
            open,
            ..GateState::shut(Octets(ceiling), Octets(ceiling))
        }
    }

    #[test]
    fn a_ceiling_becomes_a_position_on_the_counter() {
        let mut source = Limited::default();
        let mut gate = Gate::shut(GateKind::Trace, &mut source);
        assert_eq!(source.0, Some(0), "shut before the first reading");
        gate.set(&state(false, 500), Octets(200), None, &mut source);
        assert_eq!(source.0, Some(0), "shut until a reading is known");
        gate.set(&state(false, 500), Octets(200), Some(1_200), &mut source);
        assert_eq!(source.0, Some(1_200), "shut: not one octet more");
        gate.set(&state(true, 500), Octets(200), Some(1_200), &mut source);
        assert_eq!(source.0, Some(1_500));
        gate.set(&state(true, 500), Octets(700), Some(1_700), &mut source);
        assert_eq!(
            source.0,
            Some(1_700),
            "a ceiling already passed takes nothing back"
        );
        gate.set(&state(true, u64::MAX), Octets(0), Some(5), &mut source);
        assert_eq!(source.0, Some(u64::MAX));
    }

    #[test]
    fn observe_limits_nothing_and_counts_what_passed() {
        let mut source = Limited::default();
        let mut gate = Gate::shut(GateKind::Observe, &mut source);
        gate.set(&state(false, 0), Octets(100), Some(100), &mut source);
        gate.metered(Octets(130));
        assert_eq!(gate.passed(), 30);
        gate.set(&state(true, 1_000), Octets(130), Some(130), &mut source);
        gate.metered(Octets(900));
        assert_eq!(gate.passed(), 30);
        gate.metered(Octets(1_010));
        gate.metered(Octets(1_010));
        gate.metered(Octets(1_015));
        assert_eq!(gate.passed(), 45);
        gate.set(
            &state(false, 1_015),
            Octets(1_015),
            Some(1_015),
            &mut source,
        );
        gate.metered(Octets(1_020));
        assert_eq!(gate.passed(), 50);
        assert_eq!(source.0, None);
    }

    #[test]
    fn a_new_epoch_begins_the_axis_anew() {
        let mut source = Limited::default();
        let mut gate = Gate::shut(GateKind::Observe, &mut source);
        gate.set(&state(true, 5_000), Octets(4_000), Some(4_000), &mut source);
        gate.metered(Octets(4_500));
        gate.set(&state(false, 0), Octets(0), Some(4_500), &mut source);
        gate.metered(Octets(7));
        assert_eq!(gate.passed(), 7);
    }
}
