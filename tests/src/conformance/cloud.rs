//! What the kit knows as the cloud: one device, one epoch at a time. It acknowledges and answers in the background what
//! the script does not look at.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde::Serialize;
use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::{Key, Kid, Received, seal};
use simquota_shared::ids::{DeviceId, Text};
use simquota_shared::message::{
    Ack, Body, Command, CreditAnswer, CreditRequest, Policy, RegisterAnswer, RegisterRequest,
    SimProfile, Status, UsageAck, UsageBatch,
};
use simquota_shared::topic::{Down, Topic, Up};
use simquota_shared::units::{Epoch, Octets, Push, Seq, UnixMillis};

use super::line::Line;
use super::rules::{Outcome, Report, Rule};

/// Who is looked at.
pub(super) struct Subject {
    pub(super) device: DeviceId,
    kid: Kid,
    key: Key,
}

impl Subject {
    /// Reads an enrolment string.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let parts: Vec<&str> = text.trim().split(':').collect();
        let ["csim1", device, kid, key] = parts.as_slice() else {
            bail!("an enrolment string is csim1:DEVICE:NAME/GENERATION:KEY");
        };
        let (name, generation) = kid.split_once('/').context("a kid is NAME/GENERATION")?;
        Ok(Self {
            device: device.parse()?,
            kid: Kid {
                name: name.to_owned(),
                generation: generation.parse().context("the kid's generation")?,
            },
            key: Key::from_hex(key)?,
        })
    }
}

/// What the device said.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    Register(RegisterRequest, Vec<u8>),
    Credit(CreditRequest, Vec<u8>),
    Usage(UsageBatch),
    Ack(Ack),
    Status(Status),
}

/// A credit request that waits for its answer, and when it was first heard.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) request: CreditRequest,
    pub(super) octets: Vec<u8>,
    pub(super) at: Instant,
}

/// The cloud's side.
pub(super) struct Cloud {
    subject: Subject,
    line: Line,
    pub(super) grant: u64,
    /// For what the device does by its timers.
    pub(super) wait: Duration,
    /// The same for a new epoch, besides.
    pub(super) epoch_wait: Duration,
    pub(super) report: Report,
    /// The registration in force, once it was answered.
    pub(super) registered: Option<RegisterRequest>,
    /// The ceiling of the last true answer.
    pub(super) ceiling: Octets,
    /// While set, traffic may go on beyond the ceiling: the rule that says how far, which is looked at later.
    pub(super) beyond: Option<Rule>,
    /// The last answer to a request.
    pub(super) answered: Option<CreditAnswer>,
    /// While set, usage is not acknowledged: first sample that was reported and not yet reported again.
    pub(super) withheld: Option<Option<Seq>>,
    mark: Seq,
    total: Octets,
    /// Octets of each sample that was heard and not acknowledged when it was, and the total behind it.
    samples: BTreeMap<Seq, (u64, Octets)>,
}

/// The cloud's time.
pub(super) fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Cloud {
    pub(super) fn new(subject: Subject, line: Line, grant: u64) -> Self {
        Self {
            subject,
            line,
            grant,
            wait: Duration::from_secs(30),
            epoch_wait: Duration::from_secs(60),
            report: Report::default(),
            registered: None,
            ceiling: Octets::ZERO,
            beyond: None,
            answered: None,
            withheld: None,
            mark: Seq::ZERO,
            total: Octets::ZERO,
            samples: BTreeMap::new(),
        }
    }

    pub(super) fn keep(&mut self, rule: Rule) {
        self.report.note(rule, Outcome::Kept);
    }

    pub(super) fn broke(&mut self, rule: Rule, why: impl Into<String>) {
        self.report.note(rule, Outcome::Broken(why.into()));
    }

    fn topic(&self, down: Down) -> String {
        Topic::Down(self.subject.device.clone(), down).to_string()
    }

    /// Says something to the device.
    pub(super) fn say<T: Serialize>(&self, down: Down, message: &T) -> anyhow::Result<()> {
        self.say_under(&self.subject.key, down, &codec::encode(message)?)
    }

    /// The same under another key, or of other octets.
    pub(super) fn say_under(&self, key: &Key, down: Down, payload: &[u8]) -> anyhow::Result<()> {
        let topic = self.topic(down);
        let message = seal(key, &self.subject.kid, &topic, payload)?;
        self.line.send(topic, message)
    }

    /// The device's own key.
    pub(super) fn key(&self) -> &Key {
        &self.subject.key
    }

    /// Octets that are not even an envelope.
    pub(super) fn say_raw(&self, down: Down, octets: Vec<u8>) -> anyhow::Result<()> {
        self.line.send(self.topic(down), octets)
    }

    /// The next message, verified; `None` when nothing came until then. Usage and status are answered here.
    fn hear(&mut self, until: Instant) -> anyhow::Result<Option<Heard>> {
        loop {
            let Some((topic, message)) = self.line.next(until)? else {
                return Ok(None);
            };
            // An empty one clears what was retained.
            if message.is_empty() {
                continue;
            }
            match self.read(&topic, &message) {
                Ok(heard) => {
                    self.attend(&heard)?;
                    return Ok(Some(heard));
                }
                Err(why) => self.broke(Rule::Sealed, format!("{topic}: {why}")),
            }
        }
    }

    fn read(&self, topic: &str, message: &[u8]) -> anyhow::Result<Heard> {
        let received = Received::parse(message)?;
        let octets = received.verify(&self.subject.key, topic)?;
        let parsed: Topic = topic.parse()?;
        Ok(match parsed {
            Topic::Up(_, Up::Register) => Heard::Register(codec::decode(octets)?, octets.to_vec()),
            Topic::Up(_, Up::Credit) => Heard::Credit(codec::decode(octets)?, octets.to_vec()),
            Topic::Up(_, Up::Usage) => Heard::Usage(codec::decode(octets)?),
            Topic::Up(_, Up::Ack) => Heard::Ack(codec::decode(octets)?),
            Topic::Status(_) => Heard::Status(codec::decode(octets)?),
            other => bail!("a device says nothing on {other}"),
        })
    }

    /// What is answered whatever the script looks at.
    fn attend(&mut self, heard: &Heard) -> anyhow::Result<()> {
        let epoch = self.registered.as_ref().map(|registered| registered.epoch);
        match heard {
            Heard::Register(request, _) => {
                // A repeat of one that was answered: the answer was lost.
                if epoch == Some(request.epoch) {
                    self.accept(request)?;
                }
            }
            Heard::Usage(batch) if epoch == Some(batch.epoch) => self.on_usage(batch)?,
            Heard::Status(status) if epoch == Some(status.epoch) && status.online => {
                self.say(Down::Usage, &self.mark_of(status.epoch, Seq::ZERO))?;
            }
            Heard::Credit(request, _) => {
                let last = self.answered.clone();
                if let Some(last) = last.filter(|last| {
                    Some(request.epoch) == epoch
                        && last.epoch == request.epoch
                        && request.number <= last.number
                }) {
                    self.say(Down::Credit, &last)?;
                }
            }
            Heard::Usage(_) | Heard::Status(_) | Heard::Ack(_) => {}
        }
        let early = matches!(heard, Heard::Usage(_) | Heard::Credit(..) | Heard::Ack(_));
        if epoch.is_none() && early {
            let what = match heard {
                Heard::Usage(_) => "usage",
                Heard::Credit(..) => "a credit request",
                _ => "an acknowledgement",
            };
            self.broke(
                Rule::RegistersFirst,
                format!("{what} came before the registration was answered"),
            );
        }
        Ok(())
    }

    /// Answers a registration. A new epoch begins at zero.
    pub(super) fn accept(&mut self, request: &RegisterRequest) -> anyhow::Result<()> {
        let new = self
            .registered
            .as_ref()
            .is_none_or(|before| before.epoch != request.epoch);
        if new {
            self.mark = Seq::ZERO;
            self.total = Octets::ZERO;
            self.samples.clear();
            self.ceiling = Octets::ZERO;
            self.answered = None;
        }
        self.registered = Some(request.clone());
        let answer = RegisterAnswer {
            epoch: request.epoch,
            boot: request.boot,
            code: Code::SUCCESS,
            now: now(),
            sim: Some(SimProfile {
                iccid: "8988303000000000001".parse()?,
                imsi: Text::clipped("901280000000001"),
                operator: Text::clipped("Conformance"),
                zones: vec!["home".parse()?],
                apn: Text::clipped("iot"),
            }),
            policy: Some(Policy {
                version: 1,
                sample_s: 1,
                report_s: 1,
                ..Policy::DEFAULT
            }),
            retry_s: None,
            mark: self.mark,
            total: self.total,
        };
        self.say(Down::Register, &answer)
    }

    fn mark_of(&self, epoch: Epoch, first: Seq) -> UsageAck {
        UsageAck {
            epoch,
            code: Code::SUCCESS,
            mark: self.mark,
            total: self.total,
            first,
            retry_s: None,
            now: now(),
        }
    }

    fn on_usage(&mut self, batch: &UsageBatch) -> anyhow::Result<()> {
        if let Err(why) = self.check_usage(batch) {
            self.broke(Rule::SampleNumbers, why);
        }
        if let Some(first) = &mut self.withheld {
            match first {
                None => *first = Some(batch.first),
                Some(before) if *before == batch.first => {
                    self.withheld = None;
                    self.keep(Rule::ResendsUsage);
                }
                Some(_) => {}
            }
        }
        if self.withheld.is_none() {
            // In order: what is missing before a batch is what the mark asks for.
            while let Some((_, total)) = self.samples.get(&Seq(self.mark.0.saturating_add(1))) {
                self.total = *total;
                self.mark = Seq(self.mark.0.saturating_add(1));
            }
            self.say(Down::Usage, &self.mark_of(batch.epoch, batch.first))?;
        }
        Ok(())
    }

    /// Numbers without a gap, samples that stay what they were, totals that are sums.
    fn check_usage(&mut self, batch: &UsageBatch) -> Result<(), String> {
        let rows = batch.up.len();
        if rows == 0 || batch.down.len() != rows || batch.dt.len().saturating_add(1) != rows {
            return Err(format!(
                "the columns of batch {} differ in length",
                batch.first
            ));
        }
        if !batch.spans.is_empty() {
            return Err("merged rows, with room for all of them".to_owned());
        }
        let highest = self
            .samples
            .keys()
            .next_back()
            .copied()
            .unwrap_or(self.mark);
        if batch.first == Seq::ZERO || batch.first.0 > highest.0.saturating_add(1) {
            return Err(format!(
                "batch {} comes after sample {highest}",
                batch.first
            ));
        }
        let sum: u64 = batch.up.iter().chain(&batch.down).sum();
        let Some(mut total) = batch.total.checked_sub(sum) else {
            self.broke(
                Rule::Totals,
                format!("{} used, {sum} in the rows", batch.total),
            );
            return Ok(());
        };
        let before = match batch.first.0 {
            1 => Some(Octets::ZERO),
            first => self.samples.get(&Seq(first - 1)).map(|(_, total)| *total),
        };
        if before.is_some_and(|before| before != total) {
            let why = format!(
                "{total} used before sample {}, it was {before:?}",
                batch.first
            );
            self.broke(Rule::Totals, why);
        }
        if batch.total > self.ceiling && self.beyond.is_none() {
            let why = format!("{} used under a ceiling of {}", batch.total, self.ceiling);
            self.broke(Rule::StopsAtCeiling, why);
        }
        for ((up, down), number) in batch.up.iter().zip(&batch.down).zip(batch.first.0..) {
            let octets = up.saturating_add(*down);
            total = Octets(total.0.saturating_add(octets));
            let known = self.samples.insert(Seq(number), (octets, total));
            if known.is_some_and(|known| known != (octets, total)) {
                return Err(format!("sample {number} is another than it was"));
            }
        }
        self.keep(Rule::SampleNumbers);
        self.keep(Rule::Totals);
        Ok(())
    }

    /// Listens until something is heard that is asked for, at most so long.
    pub(super) fn until<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&Heard) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let until = Instant::now() + limit;
        while let Some(heard) = self.hear(until)? {
            if let Some(found) = wanted(&heard) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Attends to the device for so long.
    pub(super) fn pass(&mut self, time: Duration) -> anyhow::Result<()> {
        self.until(time, |_| None::<()>).map(drop)
    }

    /// The next request under a number of its own.
    pub(super) fn asked(&mut self, limit: Duration) -> anyhow::Result<Option<Asked>> {
        let epoch = self.registered.as_ref().map(|registered| registered.epoch);
        let last = self.answered.as_ref().map(|answer| answer.number);
        self.until(limit, |heard| match heard {
            Heard::Credit(request, octets)
                if Some(request.epoch) == epoch
                    && last.is_none_or(|last| request.number > last) =>
            {
                Some(Asked {
                    request: request.clone(),
                    octets: octets.clone(),
                    at: Instant::now(),
                })
            }
            _ => None,
        })
    }

    /// An answer that grants up to `ceiling` for an hour.
    pub(super) fn answer_to(&self, request: &CreditRequest, ceiling: Octets) -> CreditAnswer {
        let decided = now();
        CreditAnswer {
            epoch: request.epoch,
            number: request.number,
            push: Push::ZERO,
            code: Code::SUCCESS,
            ceiling,
            stop: ceiling,
            decided,
            valid_until: decided.plus_s(3600),
            renew_below: Octets::ZERO,
            final_unit: None,
            silence_s: 0,
            hold_s: 0,
            balance: Octets(1_000_000_000),
            retry_s: None,
        }
    }

    /// Says an answer that counts.
    pub(super) fn answer(&mut self, answer: CreditAnswer) -> anyhow::Result<()> {
        self.ceiling = self.ceiling.max(answer.ceiling);
        self.say(Down::Credit, &answer)?;
        self.answered = Some(answer);
        Ok(())
    }

    /// Tells the device to do something, and waits for what it says came of it.
    pub(super) fn tell(&mut self, number: u64, body: Body) -> anyhow::Result<Option<Ack>> {
        let Some(epoch) = self.registered.as_ref().map(|registered| registered.epoch) else {
            return Ok(None);
        };
        let id: simquota_shared::ids::CommandId = format!("k-{number}").parse()?;
        let said = now();
        let command = Command {
            epoch,
            id: id.clone(),
            number,
            expires: said.plus_s(3600).unwrap_or(said),
            now: said,
            body,
        };
        self.say(Down::Command, &command)?;
        self.until(self.wait, |heard| match heard {
            Heard::Ack(ack) if ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }
}
