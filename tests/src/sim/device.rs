//! A simulated device: kernel with counter and gate, disk, clocks; and the real agent on it.

use std::collections::BTreeMap;

use simquota_edge::agent::{
    Agent, AgentConfig, Commit, Durable, GateState, Identity, Input, Load, Notice, Now, Outgoing,
    Reading, Row, Up,
};
use simquota_edge::shell::World;
use simquota_shared::ids::{DeviceId, Text};
use simquota_shared::message::FinalAction;
use simquota_shared::units::{Epoch, Octets, Seq};

use super::dice::Dice;
use super::mutant::Mutant;

/// Of the octets that want to pass beyond the ceiling of a last grant, one in so many does.
const BEYOND: u64 = 8;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The process; the kernel with its counter and gate lives on.
    Killed,
    /// The machine; everything that was not synced is gone.
    PowerCut,
    /// The disk refused the commit; the process goes on with what is stored.
    DiskFull,
}

/// What the disk holds: exactly what was synced.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) state: Option<Durable>,
    pub(super) rows: BTreeMap<u64, Row>,
}

/// A counter of the machine's boot of this number.
pub(super) fn identity(machine: u64, index: u64) -> Identity {
    Identity {
        boot_id: Text::clipped(&format!("machine-{machine}")),
        netns: 1,
        index,
        name: Text::clipped("wwan0"),
    }
}

/// Everything of a device but its agent.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) id: DeviceId,
    pub(super) disk: Disk,
    pub(super) dice: Dice,
    pub(super) mutant: Option<Mutant>,
    /// World time of this step.
    pub(super) now: u64,
    /// World time of the machine's last boot.
    pub(super) booted: u64,
    /// Parts per million that its clock runs fast.
    pub(super) ppm: u64,
    /// Milliseconds that its wall clock is ahead of the world; none: it has no clock.
    pub(super) wall_ahead: Option<i64>,
    pub(super) enforced: bool,
    /// The kernel's counter since it began.
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) machine: u64,
    /// The counter's, as the kernel tells it.
    pub(super) identity: Identity,
    /// The counter's total at the agent's last reading.
    pub(super) read_at: u64,
    /// The counter's total up to which the kernel lets traffic pass.
    pub(super) limit: u64,
    /// The position on the used-total axis that this limit stands for.
    pub(super) limit_position: u64,
    /// The counter's total up to which it lets pass what is for allowed hosts, or slow, once the last grant is used up.
    pub(super) beyond: u64,
    /// It did so since all that passed was durable.
    pub(super) slow: bool,
    /// The gate was raised by the agent's last commit, and not lowered since.
    pub(super) open: bool,
    /// Calls until the process or the machine dies.
    pub(super) fuse: Option<(u32, Stop)>,
    pub(super) disk_full_permille: u64,
    pub(super) sent: Vec<Outgoing>,
    pub(super) notices: Vec<Notice>,
    /// Something that must never happen happened within a step.
    pub(super) fault: Option<String>,
    /// Octets that really passed, ever; of those, lost with the machine or the store.
    pub(super) really: u64,
    pub(super) lost: u64,
    /// Octets durably metered in epochs that are over.
    pub(super) past: BTreeMap<Epoch, Past>,
    /// The agent has not read yet.
    pub(super) first_reading: bool,
    /// The counter's total at which metering began, while no position is stored.
    pub(super) baseline: u64,
    /// The flash was rolled back in this epoch; ever.
    pub(super) rolled: bool,
    pub(super) rolled_ever: bool,
}

/// An epoch that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    /// Its durable used total at the end.
    pub(super) used: u64,
    /// The next epoch says so to the cloud.
    pub(super) closed: bool,
}

/// A device.
pub(super) struct Device {
    pub(super) body: Body,
    pub(super) agent: Option<Agent>,
    pub(super) config: AgentConfig,
    /// Counts agents, so that a wake-up of a dead one is not taken for a live one's.
    pub(super) life: u64,
    pub(super) wake_at: Option<u64>,
    pub(super) connected: bool,
    pub(super) reachable: bool,
    pub(super) off_sim: bool,
}

impl Body {
    /// The machine boots: another counter, with the same interface.
    pub(super) fn boots(&mut self, now: u64) {
        self.machine += 1;
        self.beyond = 0;
        self.identity = identity(self.machine, self.identity.index);
        self.booted = now;
    }

    pub(super) fn total(&self) -> u64 {
        self.up + self.down
    }

    pub(super) fn mono_ms(&self) -> u64 {
        let passed = self.now - self.booted;
        passed + passed * self.ppm / 1_000_000
    }

    pub(super) fn world_time_of(&self, mono_ms: u64) -> u64 {
        let passed = (u128::from(mono_ms) * 1_000_000).div_ceil(1_000_000 + u128::from(self.ppm));
        self.booted + passed as u64
    }

    pub(super) fn clocks(&self) -> Now {
        Now {
            mono_ms: self.mono_ms(),
            wall_ms: self
                .wall_ahead
                .map(|ahead| (super::cloud::ZERO + self.now).saturating_add_signed(ahead)),
        }
    }

    pub(super) fn reading(&mut self) -> Reading {
        // It died while it came back to the SIM: what passed since may as well be another network's, says the store.
        if self.first_reading && self.left() {
            self.lost += self.unaccounted();
        }
        // An agent's first reading without a stored position is where metering begins.
        if self.first_reading
            && self
                .disk
                .state
                .as_ref()
                .is_none_or(|state| state.position.is_none())
        {
            self.lost += self.total() - self.baseline;
            self.baseline = self.total();
        }
        self.first_reading = false;
        self.read_at = self.total();
        Reading {
            identity: self.identity.clone(),
            up: self.up,
            down: self.down,
            own: 0,
            dropped: 0,
        }
    }

    /// Octets that no durable row accounts for are gone with their counter. The armed window is the bound, and the
    /// next start declares it. A flash that was rolled back knows an old one.
    pub(super) fn lose(&mut self, octets: u64) {
        self.lost += octets;
        if let Some(state) = &self.disk.state
            && self.enforced
            && !self.rolled
            && state.position.is_some()
        {
            let mut window = state.armed.value().saturating_sub(state.used.value());
            if self.slow {
                window = window.max(state.credit.stop.beyond(state.used));
            }
            if octets > window {
                self.note(format!(
                    "{octets} octets went with their counter, and only {window} were armed"
                ));
            }
        }
    }

    /// Whether the stored position is of this counter.
    pub(super) fn stores(&self, identity: &Identity) -> bool {
        let state = self.disk.state.as_ref();
        state
            .and_then(|state| state.position.as_ref())
            .is_some_and(|position| position.identity == *identity)
    }

    /// Whether the store says that this very counter was left to another network.
    fn left(&self) -> bool {
        let position = self
            .disk
            .state
            .as_ref()
            .and_then(|state| state.position.as_ref());
        position.is_some_and(|position| position.left && self.is_of(&position.identity))
    }

    /// Traffic wants to pass. Returns how much did.
    pub(super) fn traffic(&mut self, up: u64, down: u64) -> u64 {
        let wanted = up + down;
        let room = if self.enforced {
            self.limit.saturating_sub(self.total())
        } else {
            u64::MAX
        };
        let within = wanted.min(room);
        // One octet in so many is for an allowed host, or gets through the throttle.
        let slow = (wanted - within) / BEYOND;
        let passed = within + slow.min(self.beyond.saturating_sub(self.total() + within));
        let passed_down = down.min(passed);
        self.down += passed_down;
        self.up += passed - passed_down;
        self.really += passed;
        passed
    }

    fn burn(&mut self) -> Result<(), Stop> {
        match &mut self.fuse {
            None => Ok(()),
            Some((0, stop)) => {
                let stop = *stop;
                self.fuse = None;
                Err(stop)
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn set_gate(&mut self, gate: &GateState, used: Octets) {
        self.open = gate.open;
        let position = if gate.open {
            gate.ceiling.min(gate.armed).value().max(used.value())
        } else {
            used.value()
        };
        // Shut means now: what passed since the last reading can't be called back.
        self.limit = if gate.open {
            self.read_at + (position - used.value())
        } else {
            self.total()
        };
        self.limit_position = if gate.open {
            gate.ceiling.min(gate.armed).value()
        } else {
            0
        };
        self.beyond = match &gate.final_unit {
            Some(FinalAction::Restrict(_) | FinalAction::Throttle(_)) if self.enforced => {
                self.read_at + gate.stop.beyond(used)
            }
            _ => 0,
        };
        self.slow |= self.beyond > 0;
    }

    fn note(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    fn check_sent(&mut self, message: &Outgoing) {
        use simquota_shared::codec::decode;
        use simquota_shared::message::{CreditRequest, UsageBatch};
        let Some(state) = &self.disk.state else {
            return self.note(format!(
                "{:?} was sent before anything was durable",
                message.up
            ));
        };
        let (number, used) = (state.credit.number, state.used);
        match message.up {
            Up::Credit => {
                if let Ok(request) = decode::<CreditRequest>(&message.payload)
                    && request.number > number
                {
                    self.note(format!(
                        "request {} was sent and is not durable",
                        request.number
                    ));
                }
            }
            Up::Usage => {
                if let Ok(batch) = decode::<UsageBatch>(&message.payload)
                    && batch.total > used
                {
                    self.note(format!(
                        "usage up to {} was sent, durable is {used}",
                        batch.total
                    ));
                }
            }
            Up::Status | Up::Register | Up::Ack => {}
        }
    }

    /// What the store gives back under the mutant that keeps samples and position apart.
    pub(super) fn stored(&self) -> Option<Durable> {
        let mut state = self.disk.state.clone()?;
        if self.mutant == Some(Mutant::SplitCommit)
            && let Some(position) = &mut state.position
        {
            position.down = position.down.saturating_sub(1000);
        }
        Some(state)
    }
}

impl World for Body {
    type Stop = Stop;

    fn now(&mut self) -> Now {
        self.clocks()
    }

    fn lower(&mut self, gate: &GateState, used: Octets) -> Result<(), Stop> {
        self.burn()?;
        if self.mutant != Some(Mutant::NoCut) {
            self.set_gate(gate, used);
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Input, Stop> {
        self.burn()?;
        Ok(Input::Reading(self.reading()))
    }

    fn commit(&mut self, commit: Commit) -> Result<(), Stop> {
        // Power may go before the sync returns: then nobody knows whether it was done.
        if let Err(stop) = self.burn() {
            if self.dice.permille(500) && stop != Stop::DiskFull {
                self.write(commit);
            }
            return Err(stop);
        }
        if self.dice.permille(self.disk_full_permille) {
            return Err(Stop::DiskFull);
        }
        self.write(commit);
        Ok(())
    }

    fn raise(&mut self, gate: &GateState, used: Octets) -> Result<(), Stop> {
        self.burn()?;
        self.set_gate(gate, used);
        Ok(())
    }

    fn publish(&mut self, message: Outgoing) -> Result<(), Stop> {
        self.burn()?;
        self.check_sent(&message);
        self.sent.push(message);
        Ok(())
    }

    fn load(&mut self, load: Load) -> Result<Vec<Row>, Stop> {
        self.burn()?;
        Ok(self
            .disk
            .rows
            .values()
            .filter(|row| row.last() >= load.from)
            .take(load.rows_max)
            .cloned()
            .collect())
    }

    fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
    }
}

impl Body {
    /// The disk is under pressure: two rows become one, with all sums kept. They may have been sent before.
    fn merge(&mut self, acked: Seq) {
        let waiting: Vec<Row> = self
            .disk
            .rows
            .values()
            .filter(|row| row.seq > acked)
            .cloned()
            .collect();
        let at = self.dice.below(waiting.len() as u64) as usize;
        let (Some(one), Some(two)) = (waiting.get(at), waiting.get(at + 1)) else {
            return;
        };
        let Some(mut merged) = one.merged(two) else {
            return;
        };
        if self.mutant == Some(Mutant::MergedByFirst) {
            merged.count = 1;
        }
        if self.mutant == Some(Mutant::MergedByLast) {
            merged.seq = merged.last();
            merged.count = 1;
        }
        self.disk.rows.remove(&one.last().value());
        self.disk.rows.remove(&two.last().value());
        self.disk.rows.insert(merged.last().value(), merged);
    }

    fn write(&mut self, commit: Commit) {
        let Commit { state, rows } = commit;
        for row in rows {
            self.disk.rows.insert(row.last().value(), row);
        }
        if self.dice.permille(20) {
            self.merge(state.acked);
        }
        // Acknowledged rows go, but for the last few: compaction is lazy.
        let keep_from = Seq(state.acked.value().saturating_sub(self.dice.below(30)));
        self.disk.rows = self.disk.rows.split_off(&(keep_from.value() + 1));
        self.disk.state = Some(state);
        self.slow &= self.beyond > 0 || self.unaccounted() > 0;
    }
}
