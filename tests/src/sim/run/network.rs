//! The network, the broker in it, and the cloud at its other end.

use std::collections::BTreeSet;

use simquota_cloud::charging::Outgoing;
use simquota_edge::agent::{Input, Up};
use simquota_shared::codec::decode;
use simquota_shared::message::{Command, CreditAnswer, RegisterAnswer, UsageAck};
use simquota_shared::topic::{Down, Topic};

use super::{Event, Simulation};
use crate::sim::cloud::{Cut, Inbound};
use crate::sim::mutant::Mutant;
use crate::sim::plan::{HOUR, MINUTE};

impl Simulation {
    pub(super) fn delay(&mut self) -> u64 {
        if self.resting {
            1 + self.dice.below(200)
        } else {
            1 + self.dice.spread(self.plan.delay_ms)
        }
    }

    /// What was said to the epoch before comes again in the next one.
    pub(super) fn repeat_late(&mut self, n: usize) {
        if let Some(payload) = self.last_ack.get(&n).cloned() {
            for _ in 0..3 {
                let (at, life) = (self.now + self.dice.below(24 * HOUR), self.devices[n].life);
                self.at(at, Event::Deliver(n, life, Down::Usage, payload.clone()));
            }
        }
    }

    /// A broker may keep a copy for hours, and deliver it to whoever is there then.
    pub(super) fn held(&mut self, copy: u64) -> u64 {
        if copy > 0 && self.dice.permille(300) {
            self.dice.spread(3 * HOUR)
        } else {
            0
        }
    }

    /// How often a message arrives.
    pub(super) fn copies(&mut self) -> u64 {
        if self.resting {
            return 1;
        }
        if self.dice.permille(self.plan.drop_permille) {
            self.figures.dropped += 1;
            return 0;
        }
        1 + u64::from(self.dice.permille(self.plan.repeat_permille))
    }

    pub(super) fn send(&mut self, n: usize, up: Up, payload: Vec<u8>) {
        if !self.devices[n].connected {
            return;
        }
        if self.mutant == Some(Mutant::DeleteOnPuback) && up == Up::Usage {
            self.delete_on_puback(n, &payload);
        }
        if up == Up::Credit && !self.resting && self.dice.permille(self.plan.fickle_permille) {
            // The link goes in the middle of an exchange, and stays away.
            let at = self.now + 1;
            self.at(at, Event::Vanish(n));
        }
        let stored = self.devices[n].body.disk.state.as_ref();
        let generation = stored.map_or(1, |state| state.key_generation.max(1));
        for copy in 0..self.copies() {
            let at = self.now + self.delay() + self.held(copy);
            self.at(
                at,
                Event::Arrive(Inbound {
                    device: n,
                    up,
                    generation,
                    payload: payload.clone(),
                }),
            );
        }
    }

    pub(super) fn delete_on_puback(&mut self, n: usize, payload: &[u8]) {
        if let Ok(batch) = decode::<simquota_shared::message::UsageBatch>(payload) {
            let device = &mut self.devices[n];
            let last = batch.first.value() + batch.up.len() as u64;
            device.body.disk.rows = device.body.disk.rows.split_off(&last);
        }
    }

    pub(super) fn connect(&mut self, n: usize) {
        let device = &mut self.devices[n];
        if device.agent.is_none() || device.connected || !device.reachable {
            return;
        }
        device.connected = true;
        self.step(n, Input::Connected(None));
        if let Some(payload) = self.retained.get(&n).cloned() {
            let (at, life) = (self.now + self.delay(), self.devices[n].life);
            self.at(at, Event::Deliver(n, life, Down::Credit, payload));
        }
    }

    pub(super) fn disconnect(&mut self, n: usize) {
        if self.devices[n].connected {
            self.devices[n].connected = false;
            self.step(n, Input::Disconnected);
        }
    }

    pub(super) fn arrive(&mut self, message: Inbound) {
        self.cloud.inbox.push(message);
        self.schedule_turn();
    }

    pub(super) fn schedule_turn(&mut self) {
        if self.cloud.turn_at.is_none()
            && self.cloud.down_until.is_none()
            && !self.cloud.inbox.is_empty()
        {
            let at = self.now + 1 + self.dice.below(20);
            self.cloud.turn_at = Some(at);
            self.at(at, Event::CloudTurn);
        }
    }

    pub(super) fn cloud_turn(&mut self) {
        self.cloud.turn_at = None;
        if self.cloud.down_until.is_some() {
            return;
        }
        let crash = if self.resting {
            0
        } else {
            self.plan.cloud_crash_permille
        };
        let cut = (crash > 0 && self.dice.permille(crash)).then(|| {
            [Cut::BeforeCommit, Cut::AfterCommit, Cut::AmidAnswers][self.dice.below(3) as usize % 3]
        });
        if self.story.kept() {
            let waiting: Vec<String> = self
                .cloud
                .inbox
                .iter()
                .map(|message| format!("dev{} {:?} {}", message.device, message.up, shown(message)))
                .collect();
            for line in waiting {
                self.tell(|| "cloud".to_owned(), || line.chars().take(220).collect());
            }
        }
        let mut dice = self.dice.fork();
        let before = self.cloud.journal.len();
        let touched: BTreeSet<usize> = self
            .cloud
            .inbox
            .iter()
            .map(|message| message.device)
            .collect();
        match self.cloud.turn(self.now, &self.names, cut, &mut dice) {
            Ok((outgoing, again)) => {
                self.tell_entries(before);
                self.check_entries(before);
                if cut.is_some() {
                    self.figures.cloud_crashes += 1;
                    self.tell(|| "cloud".to_owned(), || format!("crashes: {cut:?}"));
                    let back = self.now + 1000 + self.dice.below(10 * MINUTE);
                    self.cloud.down_until = Some(back);
                    self.at(back, Event::CloudBack);
                    // What was not acknowledged to the broker comes again, or the broker lost it.
                    for message in again {
                        if self.dice.permille(700) {
                            self.cloud.inbox.push(message);
                        }
                    }
                }
                self.say(outgoing);
                for n in touched {
                    self.check_device(n);
                }
            }
            Err(what) => self.fail(what),
        }
    }

    pub(super) fn tell_entries(&mut self, before: usize) {
        if !self.story.kept() {
            return;
        }
        let lines: Vec<String> = self
            .cloud
            .journal
            .get(before..)
            .unwrap_or_default()
            .iter()
            .map(|entry| {
                let subject = match &entry.subject {
                    simquota_cloud::ledger::entry::Subject::Device(device) => device.to_string(),
                    _ => "fleet".to_owned(),
                };
                format!(
                    "#{} {subject}: {}",
                    entry.number,
                    simquota_cloud::ledger::explain::words(entry)
                )
            })
            .collect();
        for line in lines {
            self.tell(|| "ledger".to_owned(), || line);
        }
    }

    /// What the cloud says goes out.
    pub(super) fn say(&mut self, outgoing: Vec<Outgoing>) {
        for message in outgoing {
            self.digest(message.payload.len() as u64);
            let Topic::Down(device, down) = &message.topic else {
                continue;
            };
            let Some(n) = self.names.iter().position(|name| name == device) else {
                continue;
            };
            self.check_answer(device, *down, &message.payload);
            if *down == Down::Usage {
                self.last_ack.insert(n, message.payload.clone());
            }
            if message.retain {
                self.retained.insert(n, message.payload.clone());
            }
            for copy in 0..self.copies() {
                let (at, life) = (
                    self.now + self.delay() + self.held(copy),
                    self.devices[n].life,
                );
                self.at(at, Event::Deliver(n, life, *down, message.payload.clone()));
            }
        }
    }

    pub(super) fn deliver(&mut self, n: usize, _life: u64, down: Down, payload: &[u8]) {
        // A session may outlive the process: what was meant for the one before reaches the next.
        if !self.devices[n].connected {
            return;
        }
        let input = match down {
            Down::Register => decode::<RegisterAnswer>(payload).map(Input::Register),
            Down::Usage => decode::<UsageAck>(payload).map(Input::UsageAck),
            Down::Credit => decode::<CreditAnswer>(payload).map(Input::Credit),
            Down::Command => decode::<Command>(payload).map(Input::Command),
        };
        match input {
            Ok(input) => {
                let input = self.tamper_input(n, input);
                if matches!(input, Input::Credit(_) | Input::Register(_)) {
                    self.unsettled_hears(n, &input, payload);
                }
                self.step(n, input);
            }
            Err(error) => self.fail(format!("what the cloud said can't be read: {error}")),
        }
    }

    pub(super) fn tamper_input(&mut self, n: usize, mut input: Input) -> Input {
        let Some(agent) = &self.devices[n].agent else {
            return input;
        };
        let state = agent.state();
        match (self.mutant, &mut input) {
            (Some(Mutant::AnyEpoch), Input::Credit(answer)) => answer.epoch = state.epoch,
            (Some(Mutant::AckAnyEpoch), Input::UsageAck(ack)) => ack.epoch = state.epoch,
            (Some(Mutant::StaleAnswer), Input::Credit(answer))
                if answer.number < state.credit.number =>
            {
                answer.number = state.credit.number;
            }
            (Some(Mutant::ValidityFromReceipt), Input::Credit(answer)) => {
                // An hour more stands for "as if it had been asked for just now".
                if let Some(until) = &mut answer.valid_until {
                    until.0 += 3 * (until.0 - answer.decided.0);
                }
            }
            _ => {}
        }
        input
    }

    pub(super) fn sweep(&mut self) {
        let next = self.now + if self.resting { 5 * MINUTE } else { 2 * MINUTE };
        self.at(next, Event::Sweep);
        if self.cloud.down_until.is_some() {
            return;
        }
        let before = self.cloud.journal.len();
        match self.cloud.sweep(self.now) {
            Ok(outgoing) => {
                self.tell_entries(before);
                self.check_entries(before);
                self.say(outgoing);
                if self.cloud.journal.len() > before {
                    for n in 0..self.devices.len() {
                        self.check_device(n);
                    }
                }
            }
            Err(broken) => self.fail(format!("the ledger broke: {broken}")),
        }
    }
}

fn shown(message: &Inbound) -> String {
    use simquota_shared::message::{Ack, CreditRequest, RegisterRequest, Status, UsageBatch};
    match message.up {
        Up::Register => format!("{:?}", decode::<RegisterRequest>(&message.payload)),
        Up::Credit => format!("{:?}", decode::<CreditRequest>(&message.payload)),
        Up::Ack => format!("{:?}", decode::<Ack>(&message.payload)),
        Up::Status => format!("{:?}", decode::<Status>(&message.payload)),
        Up::Usage => match decode::<UsageBatch>(&message.payload) {
            Ok(batch) => format!(
                "epoch {} first {} rows {} total {} up {:?} down {:?}",
                batch.epoch,
                batch.first,
                batch.up.len(),
                batch.total,
                batch.up,
                batch.down
            ),
            Err(error) => error.to_string(),
        },
    }
}
