//! What goes wrong.

use simquota_edge::agent::{Durable, Input};
use simquota_shared::ids::ZoneId;
use simquota_shared::units::Epoch;

use super::{Event, Simulation};
use crate::sim::cloud::id;
use crate::sim::device::{Disk, Past, Stop};
use crate::sim::plan::{HOUR, MINUTE};
use crate::sim::plot::Mark;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Offline,
    Kill,
    PowerCut,
    BrokerForgets,
    ClockStep,
    CloudClockStep,
    CounterReset,
    SimSwitch,
    ZoneChange,
    StoreReset,
    Rollback,
    BackupRestore,
    Command,
    TopUp,
}

pub(super) const FAULTS: [Fault; 14] = [
    Fault::Offline,
    Fault::Kill,
    Fault::PowerCut,
    Fault::BrokerForgets,
    Fault::ClockStep,
    Fault::CloudClockStep,
    Fault::CounterReset,
    Fault::SimSwitch,
    Fault::ZoneChange,
    Fault::StoreReset,
    Fault::Rollback,
    Fault::BackupRestore,
    Fault::Command,
    Fault::TopUp,
];

impl Simulation {
    pub(super) fn mean(&self, fault: Fault) -> u64 {
        match fault {
            Fault::Offline => self.plan.offline,
            Fault::Kill => self.plan.kill,
            Fault::PowerCut => self.plan.power_cut,
            Fault::BrokerForgets => self.plan.broker_forgets,
            Fault::ClockStep => self.plan.clock_step,
            Fault::CloudClockStep => self.plan.cloud_clock_step,
            Fault::CounterReset => self.plan.counter_reset,
            Fault::SimSwitch => self.plan.sim_switch,
            Fault::ZoneChange => self.plan.zone_change,
            Fault::StoreReset => self.plan.store_reset,
            Fault::Rollback => self.plan.rollback,
            Fault::BackupRestore => self.plan.backup_restore,
            Fault::Command => self.plan.command,
            Fault::TopUp => self.plan.top_up,
        }
    }

    pub(super) fn plan_fault(&mut self, fault: Fault) {
        let mean = self.mean(fault);
        if mean > 0 && !self.resting {
            let at = self.now + self.dice.spread(mean).max(1000);
            self.at(at, Event::Fault(fault));
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        if self.resting {
            return;
        }
        self.plan_fault(fault);
        let n = self.dice.below(self.devices.len() as u64) as usize;
        self.mark(n, fault);
        match fault {
            Fault::Offline => self.go_offline(n),
            Fault::Kill | Fault::PowerCut => {
                if self.devices[n].agent.is_some() {
                    self.die(
                        n,
                        if fault == Fault::Kill {
                            Stop::Killed
                        } else {
                            Stop::PowerCut
                        },
                    );
                }
            }
            Fault::BrokerForgets => {
                self.tell(|| "broker".to_owned(), || "forgets everything".to_owned());
                self.retained.clear();
                self.queue
                    .retain(|_, event| !matches!(event, Event::Arrive(_) | Event::Deliver(..)));
                for n in 0..self.devices.len() {
                    self.disconnect(n);
                    let back = self.now + 1000 + self.dice.below(MINUTE);
                    self.at(back, Event::Connect(n));
                }
            }
            Fault::ClockStep => {
                let step = self.dice.between(0, 48 * HOUR) as i64 - (24 * HOUR) as i64;
                let body = &mut self.devices[n].body;
                if let Some(ahead) = &mut body.wall_ahead {
                    *ahead += step;
                }
            }
            Fault::CloudClockStep => {
                // Only back: forward the service follows a clock that never jumps, so that no lease ends early.
                let step = self.dice.below(3 * HOUR) as i64;
                self.cloud.ahead = (self.cloud.ahead - step).max(-((6 * HOUR) as i64));
            }
            Fault::CounterReset => self.counter_reset(n),
            Fault::SimSwitch => self.sim_switch(n),
            Fault::ZoneChange => {
                let zone = if self.dice.permille(500) {
                    ZoneId::home()
                } else {
                    id("roam")
                };
                self.step(n, Input::ZoneChanged(zone));
            }
            Fault::StoreReset => self.store_reset(n),
            Fault::Rollback => self.rollback(n),
            Fault::BackupRestore => self.restore_backup(),
            Fault::Command => self.fleet_command(n),
            Fault::TopUp => {
                self.top_up(n);
                if self.rules.permille(600) {
                    self.rule(n);
                }
            }
        }
    }

    pub(super) fn mark(&mut self, n: usize, fault: Fault) {
        if let Some(trace) = &mut self.trace {
            trace.marks.push(Mark {
                at: self.now,
                device: n,
                name: format!("{fault:?}"),
            });
        }
    }

    pub(super) fn go_offline(&mut self, n: usize) {
        self.devices[n].reachable = false;
        self.disconnect(n);
        // Messages under way are lost or not.
        let back = self.now + self.dice.spread(self.plan.offline_for).max(1000);
        self.devices[n].reachable = true;
        self.at(back, Event::Connect(n));
    }

    pub(super) fn counter_reset(&mut self, n: usize) {
        // The driver re-creates the interface: another index, counters from 0. What was not read before is lost with
        // the old counter, unless its removal is heard: here it is, as the last reading.
        if self.devices[n].agent.is_some() {
            self.devices[n].body.now = self.now;
            let last = self.devices[n].body.reading();
            self.step(n, Input::Reading(last));
        }
        let body = &mut self.devices[n].body;
        // What no durable row accounts for is in the agent's memory alone, once the counter is gone.
        let at_risk = body.unaccounted();
        body.identity.index += 1;
        let identity = body.identity.clone();
        body.baseline = 0;
        // The limit moves with the counter.
        body.limit = body.limit.saturating_sub(body.total());
        body.beyond = body.beyond.saturating_sub(body.total());
        body.up = 0;
        body.down = 0;
        body.read_at = 0;
        if self.devices[n].agent.is_some() {
            let first = self.devices[n].body.reading();
            self.step(n, Input::Reading(first));
        }
        let device = &mut self.devices[n];
        if device.agent.is_none() && !device.body.stores(&identity) {
            device.body.lose(at_risk);
        }
    }

    pub(super) fn sim_switch(&mut self, n: usize) {
        if self.devices[n].agent.is_none() {
            return;
        }
        if self.devices[n].off_sim {
            self.devices[n].off_sim = false;
            self.step(n, Input::ReturnSim);
        } else {
            // The traffic goes elsewhere from now on, also when the process dies in the step.
            self.devices[n].off_sim = true;
            self.step(n, Input::LeaveSim);
        }
    }

    pub(super) fn store_reset(&mut self, n: usize) {
        let with_mirror = self.dice.permille(500);
        let now = self.now;
        let device = &mut self.devices[n];
        device.body.now = now;
        let Some(state) = device.body.disk.state.clone() else {
            return;
        };
        device.agent = None;
        device.connected = false;
        device.life += 1;
        device.wake_at = None;
        // What the counter has beyond the store is lost with the store: the next epoch begins at the counter.
        device.body.lost += device.body.unaccounted();
        // An epoch that the cloud never met takes the end of the one before with it.
        let met = self.cloud.ledger.devices.get(&device.body.id);
        if !met.is_some_and(|found| found.epochs.contains_key(&state.epoch))
            && let Some(closes) = &state.closes
            && let Some(before) = device.body.past.get_mut(&closes.epoch)
        {
            before.closed = false;
        }
        device.body.past.insert(
            state.epoch,
            Past {
                used: state.used.value(),
                closed: with_mirror,
            },
        );
        device.body.rolled = false;
        device.body.disk = Disk::default();
        device.body.baseline = 0;
        // A factory reset boots the machine.
        device.body.up = 0;
        device.body.down = 0;
        device.body.read_at = 0;
        device.body.limit = 0;
        device.body.limit_position = 0;
        device.body.open = false;
        device.body.boots(now);
        self.snapshots.remove(&n);
        if with_mirror {
            let epoch = Epoch(self.dice.next() >> 1);
            let closes = simquota_shared::message::Closes {
                epoch: state.epoch,
                total: state.used,
            };
            self.devices[n].body.disk.state =
                Some(Durable::fresh(epoch, Some(closes), ZoneId::home()));
        }
        self.figures.new_epochs += 1;
        self.repeat_late(n);
        self.tell(
            || format!("dev{n}"),
            || format!("loses its store, mirror kept: {with_mirror}"),
        );
        self.at(now + 1000, Event::Start(n));
    }

    /// The flash goes back to an older state, as after a bad update; the machine boots.
    pub(super) fn rollback(&mut self, n: usize) {
        let now = self.now;
        let current = self.devices[n].body.disk.clone();
        let Some(old) = self.snapshots.insert(n, current.clone()) else {
            return;
        };
        let (Some(new_state), Some(old_state)) = (&current.state, &old.state) else {
            return;
        };
        if new_state.epoch != old_state.epoch {
            return;
        }
        let device = &mut self.devices[n];
        device.body.now = now;
        device.agent = None;
        device.connected = false;
        device.life += 1;
        device.wake_at = None;
        self.tell(
            || format!("dev{n}"),
            || "its flash is rolled back".to_owned(),
        );
        self.machine_dies(n);
        let body = &mut self.devices[n].body;
        // What the newer state held and the cloud has not charged is gone with it; check_rest finds out how much.
        body.rolled = true;
        body.rolled_ever = true;
        body.disk = old;
        self.at(now + 1000, Event::Start(n));
    }

    pub(super) fn restore_backup(&mut self) {
        let keep = self.backup;
        self.backup = self.cloud.journal.len();
        if keep >= self.cloud.journal.len() {
            return;
        }
        self.tell(
            || "cloud".to_owned(),
            || format!("is restored from a backup at entry {keep}"),
        );
        self.cloud.journal.truncate(keep);
        self.backup = keep;
        self.cloud.forgotten = std::mem::take(&mut self.cloud.answers);
        self.restored = true;
        self.retained.clear();
        if let Err(what) = self.cloud.reload() {
            self.fail(what);
        }
        for n in 0..self.devices.len() {
            self.unsettled.insert(n);
        }
        self.forget_positions();
    }
}
