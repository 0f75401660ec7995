//! Devices: they start, step, die, and traffic passes through them.

use std::collections::BTreeMap;

use simquota_edge::agent::{Agent, Durable, Input};
use simquota_edge::shell::{self, After, World as _};
use simquota_shared::units::Epoch;

use super::{Event, Simulation};
use crate::sim::device::{Body, Disk, Past, Stop};
use crate::sim::mutant::Mutant;
use crate::sim::plan::MINUTE;

impl Simulation {
    pub(super) fn start(&mut self, n: usize) {
        let now = self.now;
        let device = &mut self.devices[n];
        if device.agent.is_some() {
            return;
        }
        device.body.now = now;
        device.body.first_reading = true;
        device.life += 1;
        let stored = device.body.stored();
        let fresh = Epoch(self.dice.next() >> 1);
        let clocks = device.body.clocks();
        let (agent, effects) = Agent::start(device.config.clone(), stored, fresh, clocks);
        device.agent = Some(agent);
        device.off_sim = false;
        self.tell(|| format!("dev{n}"), || "starts".to_owned());
        self.within(n, |agent, body| shell::carry_out(agent, effects, body));
        if self.devices[n].agent.is_some() && self.devices[n].reachable {
            let delay = self.delay();
            self.at(self.now + delay, Event::Connect(n));
        }
    }

    pub(in crate::sim) fn step(&mut self, n: usize, input: Input) {
        let mutant = self.mutant;
        if self.story.kept() && !matches!(input, Input::Tick | Input::Reading(_)) {
            let shown = format!("<- {input:?}");
            self.tell(|| format!("dev{n}"), || shown.chars().take(220).collect());
        }
        self.within(n, |agent, body| match mutant {
            Some(Mutant::PublishBeforeCommit | Mutant::RaiseBeforeCommit) => hasty(
                agent,
                input,
                body,
                mutant == Some(Mutant::PublishBeforeCommit),
            ),
            _ => shell::step(agent, input, body),
        });
    }

    /// Runs the agent of a device, then takes care of what it sent, of its wake-up and of its death.
    pub(super) fn within(
        &mut self,
        n: usize,
        act: impl FnOnce(&mut Agent, &mut Body) -> Result<After, Stop>,
    ) {
        let step_crash = if self.resting {
            0
        } else {
            self.plan.step_crash_permille
        };
        let fuse = (step_crash > 0 && self.dice.permille(step_crash)).then(|| {
            let stop = if self.dice.permille(500) {
                Stop::Killed
            } else {
                Stop::PowerCut
            };
            (self.dice.below(6) as u32, stop)
        });
        let now = self.now;
        let device = &mut self.devices[n];
        let Some(agent) = device.agent.as_mut() else {
            return;
        };
        device.body.now = now;
        device.body.fuse = fuse;
        device.body.disk_full_permille = if self.resting {
            0
        } else {
            self.plan.disk_full_permille
        };
        let result = act(agent, &mut device.body);
        device.body.fuse = None;
        let sent = std::mem::take(&mut device.body.sent);
        let notices = std::mem::take(&mut device.body.notices);
        if let Some(fault) = device.body.fault.take() {
            self.fail(format!("device {n}: {fault}"));
        }
        if self.story.kept() {
            for notice in notices {
                let shown = format!("{notice:?}");
                self.tell(|| format!("dev{n}"), || shown.chars().take(220).collect());
            }
        }
        for message in sent {
            self.digest(message.payload.len() as u64 + n as u64);
            self.send(n, message.up, message.payload);
        }
        match result {
            Ok(after) => self.after(n, after),
            Err(Stop::DiskFull) => {
                self.tell(
                    || format!("dev{n}"),
                    || "disk full: starts anew from the store".to_owned(),
                );
                self.die(n, Stop::Killed);
            }
            Err(stop) => self.die(n, stop),
        }
        self.check_device(n);
    }

    pub(super) fn after(&mut self, n: usize, after: After) {
        if after.new_epoch {
            self.new_epoch(n);
            return;
        }
        if let Some(wake_at_ms) = after.wake_at_ms {
            let device = &mut self.devices[n];
            let at = device.body.world_time_of(wake_at_ms).max(self.now + 1);
            if device
                .wake_at
                .is_none_or(|planned| at < planned || planned <= self.now)
            {
                device.wake_at = Some(at);
                let life = device.life;
                self.at(at, Event::Wake(n, life));
            }
        }
        if after.done {
            self.die(n, Stop::Killed);
        }
    }

    pub(super) fn new_epoch(&mut self, n: usize) {
        let epoch = Epoch(self.dice.next() >> 1);
        let device = &mut self.devices[n];
        let Some(agent) = device.agent.take() else {
            return;
        };
        // Without a lost store, a rolled-back flash or a restored cloud the two sides never disagree for good.
        if self.plan.store_reset + self.plan.rollback + self.plan.backup_restore == 0 {
            let view = agent.status_view();
            self.fail(format!(
                "device {n}: begins a new epoch for no reason that there is; used {}",
                view.used
            ));
        }
        let device = &mut self.devices[n];
        let before = agent.state().epoch;
        let state: Durable = agent.successor(epoch);
        let used = agent.used().value();
        device.body.past.insert(before, Past { used, closed: true });
        device.body.rolled = false;
        device.body.disk = Disk {
            state: Some(state),
            rows: BTreeMap::new(),
        };
        device.connected = false;
        device.life += 1;
        device.wake_at = None;
        self.figures.new_epochs += 1;
        self.repeat_late(n);
        self.tell(
            || format!("dev{n}"),
            || format!("begins epoch {epoch}, closes {before} at {used}"),
        );
        let at = self.now + 1000;
        self.at(at, Event::Start(n));
    }

    /// The process or the machine dies; it starts again some time later.
    pub(super) fn die(&mut self, n: usize, stop: Stop) {
        let now = self.now;
        self.tell(|| format!("dev{n}"), || format!("dies: {stop:?}"));
        self.figures.deaths += 1;
        let device = &mut self.devices[n];
        device.agent = None;
        device.connected = false;
        device.life += 1;
        device.wake_at = None;
        if stop == Stop::PowerCut {
            self.machine_dies(n);
        }
        let pause = if self.resting {
            1000
        } else {
            1000 + self.dice.below(20 * MINUTE)
        };
        self.at(now + pause, Event::Start(n));
    }

    /// The kernel's counter is gone: what was metered by it and not durable is lost.
    pub(super) fn machine_dies(&mut self, n: usize) {
        let now = self.now;
        let body = &mut self.devices[n].body;
        let unaccounted = body.unaccounted();
        body.lose(unaccounted);
        body.baseline = 0;
        body.up = 0;
        body.down = 0;
        body.read_at = 0;
        body.boots(now);
        body.limit = 0;
        body.limit_position = 0;
        body.open = false;
        self.tell(
            || format!("dev{n}"),
            || format!("the machine lost {unaccounted} octets of its counter"),
        );
    }

    pub(super) fn burst(&mut self, n: usize) {
        if !self.resting {
            let next = self.now + self.dice.spread(self.plan.burst_every).max(1000);
            self.at(next, Event::Burst(n));
        }
        let up = self.dice.spread(self.plan.burst_octets / 4);
        let down = self.dice.spread(self.plan.burst_octets);
        self.pass(n, up, down);
    }

    pub(super) fn pass(&mut self, n: usize, up: u64, down: u64) {
        let now = self.now;
        let device = &mut self.devices[n];
        device.body.now = now;
        if device.off_sim {
            return;
        }
        // A dead agent: in `observe` nothing stops traffic, an enforced gate stands where it stood.
        let (mut up, mut down) = (up, down);
        loop {
            let body = &mut self.devices[n].body;
            let before = body.up;
            let passed = body.traffic(up, down);
            let passed_up = body.up - before;
            let blocked = passed < up + down;
            self.digest(passed);
            if !blocked || self.devices[n].agent.is_none() {
                break;
            }
            // Depletion is an event, not a poll.
            let reading = self.devices[n].body.reading();
            self.step(n, Input::Reading(reading));
            self.step(n, Input::GateBlocked);
            // The next window was armed: what was held up goes on.
            up -= passed_up;
            down -= passed - passed_up;
            if passed == 0 {
                break;
            }
        }
        self.check_device(n);
    }

    pub(super) fn prod(&mut self) {
        for n in 0..self.devices.len() {
            self.pass(n, 0, 1);
        }
    }
}

/// The wrong order: says or opens first, and commits then.
fn hasty(agent: &mut Agent, input: Input, body: &mut Body, publish: bool) -> Result<After, Stop> {
    let mut after = After::default();
    let now = body.now();
    let mut next = Some(agent.step(input, now));
    while let Some(effects) = next.take() {
        after.wake_at_ms = effects.wake_at_ms.or(after.wake_at_ms);
        after.new_epoch |= effects.new_epoch;
        after.done |= effects.done;
        if let Some(gate) = effects.lower {
            body.lower(&gate, agent.used())?;
        }
        if effects.read {
            let reading = body.read()?;
            next = Some(agent.step(reading, body.now()));
            continue;
        }
        if publish {
            for message in effects.publish.clone() {
                body.publish(message)?;
            }
        }
        if let (false, Some(gate)) = (publish, &effects.raise) {
            body.raise(gate, agent.used())?;
        }
        if let Some(commit) = effects.store {
            body.commit(commit)?;
        }
        if let (true, Some(gate)) = (publish, &effects.raise) {
            body.raise(gate, agent.used())?;
        }
        if !publish {
            for message in effects.publish {
                body.publish(message)?;
            }
        }
        if let Some(load) = effects.load {
            let rows = body.load(load)?;
            next = Some(agent.step(Input::Rows(rows), body.now()));
        }
    }
    Ok(after)
}
