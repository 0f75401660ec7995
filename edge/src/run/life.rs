//! One life of the agent: from a start on what the store holds to an end, an end of the epoch, or a failed store.

use std::time::Duration;

use simquota_shared::units::Epoch;

use super::queue::{Event, Order};
use super::status::Snapshot;
use super::world::Machine;
use super::{GOODBYE_MS, GOODBYE_WAIT, RunError, fresh_epoch};
use crate::agent::{Agent, AgentConfig, Durable, GateState, Input};
use crate::io::clock;
use crate::io::gate::GateKind;
use crate::io::gate::nft::TableEvent;
use crate::io::mqtt::{MqttEvent, os_random};
use crate::io::store::StoreError;
use crate::shell::{self, After, World};

/// The thread looks around at least this often: a timer of the system does not count suspend.
const WAIT_MS_MAX: u64 = 10_000;
/// Resends wait longer by up to so many thousandths.
const JITTER_PERMILLE: u64 = 250;

/// How a life ended.
pub(super) enum Ending {
    /// In order.
    Done(Box<Snapshot>),
    /// With its epoch: the state that the next one begins with.
    NewEpoch(Box<Durable>),
    /// A commit or a read failed. The gate is shut, the line is cut, the store is closed.
    StoreFailed(StoreError),
}

impl Machine {
    /// Starts an agent on `state` and runs it to its end. `fresh` is the epoch of a first start.
    pub(super) fn live(
        &mut self,
        state: Option<Durable>,
        fresh: Epoch,
    ) -> Result<Ending, RunError> {
        let config = AgentConfig {
            jitter_permille: os_random() % (JITTER_PERMILLE + 1),
            ..self.settings.agent.clone()
        };
        let now = self.now();
        let (mut agent, effects) = Agent::start(config, state, fresh, now);
        let mut after = match shell::carry_out(&mut agent, effects, self) {
            Ok(after) => after,
            Err(error) => return Ok(self.store_failed(&mut agent, error)),
        };
        let begun = agent.state();
        tracing::info!(
            epoch = begun.epoch.0,
            boot = begun.boot.0,
            used = agent.used().0,
            backlog = begun.backlog(),
            source = self.metering.name(),
            "agent started"
        );
        self.connect(&agent)?;
        self.orders.service.ready();
        let mut ending = false;
        loop {
            self.look(&agent);
            if after.done {
                return Ok(Ending::Done(Box::new(self.goodbye(&agent))));
            }
            if after.new_epoch {
                self.line = None;
                let first = agent.successor(fresh_epoch()?);
                return Ok(Ending::NewEpoch(Box::new(first)));
            }
            let inputs = self.next_inputs(&agent, &after, &mut ending);
            for input in inputs {
                let connected = matches!(input, Input::Connected(_));
                after = match shell::step(&mut agent, input, self) {
                    Ok(next) => After {
                        done: after.done | next.done,
                        new_epoch: after.new_epoch | next.new_epoch,
                        ..next
                    },
                    Err(error) => return Ok(self.store_failed(&mut agent, error)),
                };
                if connected && let Some(line) = &self.line {
                    line.renew_will(&self.post, &agent);
                }
            }
        }
    }

    /// What the agent hears next: waits until there is something, or until it wants to be woken.
    fn next_inputs(&mut self, agent: &Agent, after: &After, ending: &mut bool) -> Vec<Input> {
        if let Some(inputs) = self.metering.next_link_event() {
            return inputs;
        }
        if let Some(input) = self.take_synced() {
            return vec![input];
        }
        let inputs = self.choose_channel(agent);
        if !inputs.is_empty() {
            return inputs;
        }
        // Only a gate that stops something can be met.
        if self.metering.met_gate() && self.gate.kind() == GateKind::Trace && !agent.gate().open {
            return vec![Input::GateBlocked];
        }
        let at_end = self.settings.exit_at_end && self.metering.finished();
        if at_end && !std::mem::replace(ending, true) {
            tracing::info!("the trace is at its end");
            return vec![Input::Shutdown];
        }
        let now_ms = clock::monotonic_ms();
        let due_ms = after.wake_at_ms.unwrap_or(u64::MAX);
        // In turns: neither a flood of messages nor a slow disk keeps the other one waiting.
        if now_ms >= due_ms && !std::mem::replace(&mut self.ticked, true) {
            return vec![Input::Tick];
        }
        self.ticked = false;
        let wait_ms = due_ms
            .saturating_sub(now_ms)
            .min(self.wait_ms_max(agent, now_ms));
        match self.next_event(wait_ms) {
            Some(Event::Order(order)) => self.obey(order, ending).into_iter().collect(),
            Some(Event::Broker(number, event)) => self.hear(number, event).into_iter().collect(),
            Some(Event::Gate(event)) => self.at_gate(event, agent),
            Some(Event::Reload(settings)) => {
                self.orders.service.reloading();
                let inputs = self.reload(*settings, agent);
                self.orders.service.ready();
                inputs
            }
            Some(Event::Channels(now)) => {
                match now {
                    Ok(reach) => self.channels.heard(reach, clock::monotonic_ms()),
                    Err(error) => {
                        self.channels_failed(&error);
                        return self.connect_again(agent).into_iter().collect();
                    }
                }
                Vec::new()
            }
            Some(Event::Hook(outcome)) => {
                if let Some(error) = &outcome {
                    tracing::warn!(error, "the SIM's profile was not handed over");
                }
                self.hook_error = outcome;
                Vec::new()
            }
            Some(Event::Link) | None => Vec::new(),
        }
    }

    fn next_event(&mut self, wait_ms: u64) -> Option<Event> {
        let kept = self.kept.pop_front();
        kept.or_else(|| self.orders.wait(Duration::from_millis(wait_ms)))
    }

    /// The kernel says that a quota is used up, or that its table was touched: both are answered by a reading.
    fn at_gate(&mut self, event: TableEvent, agent: &Agent) -> Vec<Input> {
        match event {
            TableEvent::Depleted => {}
            TableEvent::Disturbed => self.gate.remake(),
            TableEvent::Failed => {
                tracing::error!("the gate is not watched any more; restart the agent");
                return Vec::new();
            }
        }
        let met = match event == TableEvent::Depleted && !agent.gate().open {
            true => Some(Input::GateBlocked),
            false => None,
        };
        std::iter::once(self.read_meter()).chain(met).collect()
    }

    fn wait_ms_max(&self, agent: &Agent, now_ms: u64) -> u64 {
        let feed_ms = self.orders.service.feed_in_ms(now_ms);
        let choose_ms = self.channels.wake_at_ms(now_ms);
        let sooner = [feed_ms, choose_ms.map(|at_ms| at_ms.saturating_sub(now_ms))];
        let most_ms = sooner
            .into_iter()
            .flatten()
            .fold(WAIT_MS_MAX, u64::min)
            .max(1);
        match self.file.differs(&self.snapshot(agent)) {
            true => self.file.rest_ms(now_ms).clamp(1, most_ms),
            false => most_ms,
        }
    }

    fn obey(&mut self, order: Order, ending: &mut bool) -> Option<Input> {
        tracing::info!(?order, "order taken");
        match order {
            Order::Shutdown => {
                *ending = true;
                let within_ms = self.settings.agent.shutdown_ms;
                let goodbye_ms = u64::try_from(GOODBYE_WAIT.as_millis()).unwrap_or(GOODBYE_MS);
                self.orders
                    .service
                    .stopping(within_ms.saturating_add(goodbye_ms));
                if self.settings.close_meter {
                    self.metering.close(clock::monotonic_ms());
                }
                Some(Input::Shutdown)
            }
            Order::LeaveSim => Some(Input::LeaveSim),
            Order::ReturnSim => Some(Input::ReturnSim),
            Order::SimChanged(iccid) => Some(Input::SimChanged(iccid)),
            Order::ZoneChanged(zone) => Some(Input::ZoneChanged(zone)),
            Order::CloseMeter => {
                let now_ms = clock::monotonic_ms();
                self.metering.close(now_ms);
                // So that what was read last does not wait for the next poll.
                Some(self.read_meter())
            }
        }
    }

    fn hear(&mut self, number: u64, event: MqttEvent) -> Option<Input> {
        let line = self.line.as_mut().filter(|line| line.number() == number)?;
        line.hear(event, &self.post, &mut self.refused)
    }

    /// Shows the world how things are.
    fn look(&mut self, agent: &Agent) -> Snapshot {
        self.gate.metered(agent.used());
        let snapshot = self.snapshot(agent);
        let now_ms = clock::monotonic_ms();
        if self.file.rest_ms(now_ms) == 0 && self.file.differs(&snapshot) {
            self.file.write(now_ms, &snapshot);
        }
        self.orders.service.feed(now_ms);
        self.orders.service.status(now_ms, || snapshot.line());
        self.orders.show(snapshot.clone());
        snapshot
    }

    /// Sends what is queued, and says goodbye to the broker. The last status is written whatever the time.
    fn goodbye(&mut self, agent: &Agent) -> Snapshot {
        if let Some(line) = &self.line {
            line.leave(GOODBYE_MS);
            let number = line.number();
            let until_ms = clock::monotonic_ms()
                + u64::try_from(GOODBYE_WAIT.as_millis()).unwrap_or(GOODBYE_MS);
            loop {
                let left_ms = until_ms.saturating_sub(clock::monotonic_ms());
                match self.orders.wait(Duration::from_millis(left_ms)) {
                    Some(Event::Broker(closed, MqttEvent::Closed { flushed }))
                        if closed == number =>
                    {
                        tracing::debug!(flushed, "connection closed");
                        break;
                    }
                    Some(_) if left_ms > 0 => {}
                    Some(_) | None => break,
                }
            }
        }
        self.leave_gate();
        let snapshot = self.look(agent);
        self.file.write(clock::monotonic_ms(), &snapshot);
        snapshot
    }

    fn store_failed(&mut self, agent: &mut Agent, error: StoreError) -> Ending {
        let now = self.now();
        let effects = agent.step(Input::StoreFailed, now);
        let shut = effects.lower.unwrap_or_else(|| {
            let gate = agent.gate();
            GateState::shut(gate.ceiling, gate.stop)
        });
        self.set_gate(&shut, agent.used());
        self.line = None;
        self.drop_store(&error);
        self.look(agent);
        Ending::StoreFailed(error)
    }

    /// Waits behind the shut gate; says whether the end was asked for. Other orders are kept for the next life.
    pub(super) fn wait_without_store(&mut self, error: &StoreError, wait_ms: u64) -> bool {
        self.store_error = Some(error.to_string());
        let until_ms = clock::monotonic_ms().saturating_add(wait_ms);
        loop {
            let now_ms = clock::monotonic_ms();
            let service = &mut self.orders.service;
            service.feed(now_ms);
            service.status(now_ms, || format!("the gate is shut: {error}"));
            let left_ms = until_ms.saturating_sub(now_ms);
            let wait_ms = service
                .feed_in_ms(now_ms)
                .map_or(left_ms, |feed_ms| feed_ms.min(left_ms));
            match self.orders.wait(Duration::from_millis(wait_ms)) {
                Some(Event::Order(Order::Shutdown)) => return true,
                Some(
                    later @ (Event::Order(_)
                    | Event::Channels(_)
                    | Event::Reload(_)
                    | Event::Hook(_)),
                ) => self.kept.push_back(later),
                // Of a line that was cut; the link watch is asked anyway.
                Some(Event::Broker(..) | Event::Link | Event::Gate(_)) => {}
                None => {}
            }
            if left_ms == 0 {
                return false;
            }
        }
    }
}
