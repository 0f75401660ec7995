//! The simulated cloud: the real decisions on the real ledger, a journal that is durable or not, crashes between
//! deciding, committing, answering and acknowledging.

use std::collections::BTreeMap;

use simquota_cloud::charging::{DeviceRequest, Outgoing, Rules, Turn, Verdict, named_entry};
use simquota_cloud::ledger::entry::Entry;
use simquota_cloud::ledger::{Broken, Ledger};
use simquota_edge::agent::Up;
use simquota_shared::codec::{decode, encode};
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, FleetId, KeyId};
use simquota_shared::message::{CreditAnswer, FleetCommand, Kind, Policy, UsageAck, UsageBatch};
use simquota_shared::topic::{Down, Topic};
use simquota_shared::units::{Octets, Push, UnixMillis};

use super::dice::Dice;
use super::mutant::Mutant;
use super::plan::Plan;

/// The world's beginning, in Unix milliseconds.
pub(super) const ZERO: u64 = 1_800_000_000_000;
/// Entries from one checkpoint to the next.
const CHECKPOINT_EVERY: usize = 50;

/// A message on its way to the cloud.
#[derive(Clone, Debug)]
pub(super) struct Inbound {
    pub(super) device: usize,
    pub(super) up: Up,
    /// Of the key that it is sealed under.
    pub(super) generation: u64,
    pub(super) payload: Vec<u8>,
}

/// Where a batch was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    BeforeCommit,
    AfterCommit,
    AmidAnswers,
}

/// The cloud.
pub(super) struct Cloud {
    pub(super) ledger: Ledger,
    pub(super) rules: Rules,
    /// What is durable.
    pub(super) journal: Vec<Entry>,
    /// The state after so many entries, as the real store keeps one.
    checkpoint: (usize, Ledger),
    pub(super) inbox: Vec<Inbound>,
    pub(super) turn_at: Option<u64>,
    pub(super) down_until: Option<u64>,
    /// Milliseconds that its clock is ahead of the world.
    pub(super) ahead: i64,
    pub(super) commands: u64,
    /// Answers given, by device, epoch and number: they must never differ.
    pub(super) answers: BTreeMap<(DeviceId, u64, u64), Vec<u8>>,
    /// Answers that a restored backup knows nothing of.
    pub(super) forgotten: BTreeMap<(DeviceId, u64, u64), Vec<u8>>,
    /// For the broken variants: what was before the request.
    lease_before: UnixMillis,
    closed_before: bool,
    pub(super) mutant: Option<Mutant>,
    pub(super) refused: BTreeMap<&'static str, u64>,
}

pub(super) fn fleet() -> FleetId {
    id("fleet")
}

pub(super) fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    match text.parse() {
        Ok(id) => id,
        Err(error) => unreachable!("{text} is an id: {error:?}"),
    }
}

fn device_kid(generation: u64) -> Kid {
    Kid {
        generation: u32::try_from(generation).unwrap_or(u32::MAX),
        ..Kid::first(&"batch")
    }
}

pub(super) fn args(pairs: &[(&str, serde_cbor::Value)]) -> serde_cbor::Value {
    serde_cbor::Value::Map(
        pairs
            .iter()
            .map(|(key, value)| (serde_cbor::Value::Text((*key).to_owned()), value.clone()))
            .collect(),
    )
}

pub(super) fn text(value: impl ToString) -> serde_cbor::Value {
    serde_cbor::Value::Text(value.to_string())
}

pub(super) fn number(value: u64) -> serde_cbor::Value {
    serde_cbor::Value::Integer(i128::from(value))
}

impl Cloud {
    pub(super) fn new(
        plan: &Plan,
        sample_s: u64,
        devices: usize,
        mutant: Option<Mutant>,
    ) -> Result<Self, Broken> {
        let rules = Rules {
            grant_min: Octets(20_000),
            grant_max: Octets(8_000_000),
            target_s: plan.target_s,
            hold_s: plan.hold_s,
            final_action: plan.final_action.clone(),
            validity_min_s: 600,
            policy: Policy {
                version: 1,
                sample_s,
                report_s: plan.report_s,
                own_charged: plan.own_charged,
                bootstrap: Octets(64 * 1024),
                validity_s: plan.validity_s,
                overhead_permille: 10,
            },
            ..Rules::default()
        };
        let mut cloud = Self {
            ledger: Ledger::default(),
            rules,
            journal: Vec::new(),
            checkpoint: (0, Ledger::default()),
            inbox: Vec::new(),
            turn_at: None,
            down_until: None,
            ahead: 0,
            commands: 0,
            answers: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            lease_before: UnixMillis::ZERO,
            closed_before: false,
            mutant,
            refused: BTreeMap::new(),
        };
        cloud.furnish(devices, plan)?;
        Ok(cloud)
    }

    fn furnish(&mut self, devices: usize, plan: &Plan) -> Result<(), Broken> {
        let admin: KeyId = id("admin");
        let mut turn = Turn::new(&mut self.ledger, &self.rules, UnixMillis(ZERO));
        turn.bootstrap_admin(&admin)?;
        self.journal.append(&mut turn.entries);
        let sims = (0..devices)
            .map(|n| {
                serde_cbor::Value::Array(vec![
                    text(format!("8988{n:015}")),
                    text(format!("90170{n:010}")),
                    text("operator"),
                    serde_cbor::Value::Array(vec![text("home"), text("roam")]),
                    text("iot"),
                ])
            })
            .collect();
        self.order(None, "fleet-create", &[("fleet", text("fleet"))], 0)?;
        self.order(
            None,
            "sim-import",
            &[("sims", serde_cbor::Value::Array(sims))],
            0,
        )?;
        let enrolment = [
            ("enrolment", text("batch")),
            ("fleet", text("fleet")),
            ("devices", number(1000)),
        ];
        self.order(None, "enrolment-create", &enrolment, 0)?;
        self.order(
            Some(&fleet()),
            "package-buy",
            &[("volume", number(plan.pool_octets))],
            0,
        )?;
        Ok(())
    }

    pub(super) fn clock(&self, now: u64) -> UnixMillis {
        UnixMillis((ZERO + now).saturating_add_signed(self.ahead))
    }

    /// Carries out a manager's command and commits it. Returns what there is to say.
    pub(super) fn order(
        &mut self,
        fleet: Option<&FleetId>,
        name: &str,
        arguments: &[(&str, serde_cbor::Value)],
        now: u64,
    ) -> Result<Vec<Outgoing>, Broken> {
        self.commands += 1;
        let command = FleetCommand {
            id: id(&format!("order-{}", self.commands)),
            expires: UnixMillis(u64::MAX),
            expected: None,
            dry: false,
            name: simquota_shared::ids::Text::clipped(name),
            args: args(arguments),
        };
        let clock = self.clock(now);
        let named = named_entry(&command)
            .and_then(|named| {
                self.journal
                    .iter()
                    .rev()
                    .find(|entry| entry.number == named)
            })
            .cloned();
        let mut turn = Turn::new(&mut self.ledger, &self.rules, clock);
        turn.show(named);
        turn.command(fleet, &Kid::first(&"admin"), &command)?;
        let (mut entries, mut outgoing) = (
            std::mem::take(&mut turn.entries),
            std::mem::take(&mut turn.outgoing),
        );
        self.journal.append(&mut entries);
        self.tamper_pushes(&mut outgoing);
        Ok(outgoing)
    }

    /// Lets leases run out and packages end.
    pub(super) fn sweep(&mut self, now: u64) -> Result<Vec<Outgoing>, Broken> {
        let clock = self.clock(now);
        let mut turn = Turn::new(&mut self.ledger, &self.rules, clock);
        turn.sweep(1000)?;
        let (mut entries, mut outgoing) = (
            std::mem::take(&mut turn.entries),
            std::mem::take(&mut turn.outgoing),
        );
        self.journal.append(&mut entries);
        self.tamper_pushes(&mut outgoing);
        Ok(outgoing)
    }

    /// One batch: decide, commit, answer. A crash gives back what the broker will deliver again.
    pub(super) fn turn(
        &mut self,
        now: u64,
        names: &[DeviceId],
        cut: Option<Cut>,
        dice: &mut Dice,
    ) -> Result<(Vec<Outgoing>, Vec<Inbound>), String> {
        let batch = std::mem::take(&mut self.inbox);
        let clock = self.clock(now);
        let before = self.ledger_copy_for_mutants();
        let mut broken = None;
        let (mut entries, mut outgoing) = (Vec::new(), Vec::new());
        for message in &batch {
            let Some(name) = names.get(message.device) else {
                continue;
            };
            if let Some(stale) = &before {
                self.forget_own_writes(stale);
            }
            self.tamper_before(name, message);
            let debit = self.debit_on_credit(name, message);
            let mut turn = Turn::new(&mut self.ledger, &self.rules, clock);
            match decide(&mut turn, name, message, debit) {
                Ok(Some(reason)) => *self.refused.entry(reason).or_default() += 1,
                Ok(None) => {}
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
            entries.append(&mut turn.entries);
            outgoing.append(&mut turn.outgoing);
            self.tamper_after(name, message, &mut outgoing);
        }
        self.tamper_pushes(&mut outgoing);
        if let Some(error) = broken {
            return Err(format!("the ledger broke: {error}"));
        }
        if cut == Some(Cut::BeforeCommit) {
            self.reload()?;
            let said = if self.mutant == Some(Mutant::AnswerBeforeCommit) {
                outgoing
            } else {
                Vec::new()
            };
            return Ok((said, batch));
        }
        self.journal.append(&mut entries);
        match cut {
            None => Ok((outgoing, Vec::new())),
            Some(Cut::AmidAnswers) => {
                self.reload()?;
                outgoing.truncate(dice.below(outgoing.len() as u64 + 1) as usize);
                Ok((outgoing, batch))
            }
            Some(_) => {
                self.reload()?;
                Ok((Vec::new(), batch))
            }
        }
    }

    /// The state from the last checkpoint and the journal after it, as after a restart.
    pub(super) fn reload(&mut self) -> Result<(), String> {
        if self.checkpoint.0 > self.journal.len() {
            // An older backup came back.
            self.checkpoint = (0, Ledger::default());
        }
        let (entries, ledger) = &mut self.checkpoint;
        let fresh = self.journal.get(*entries..).unwrap_or_default();
        if fresh.len() < CHECKPOINT_EVERY {
            self.ledger = ledger.clone();
            return replay(&mut self.ledger, fresh);
        }
        replay(ledger, fresh)?;
        *entries = self.journal.len();
        self.ledger = ledger.clone();
        Ok(())
    }

    fn ledger_copy_for_mutants(&self) -> Option<Ledger> {
        (self.mutant == Some(Mutant::NoReadOfOwnWrites)).then(|| self.ledger.clone())
    }

    /// Balances as they were before the batch: the second operation of it reads the old ones.
    fn forget_own_writes(&mut self, stale: &Ledger) {
        for (id, package) in &mut self.ledger.packages {
            if let Some(old) = stale.packages.get(id) {
                package.balances = old.balances;
            }
        }
    }

    /// The debit that a credit request must not be.
    fn debit_on_credit(&self, name: &DeviceId, message: &Inbound) -> Option<UsageBatch> {
        if self.mutant != Some(Mutant::DebitOnCredit) || message.up != Up::Credit {
            return None;
        }
        let request: simquota_shared::message::CreditRequest = decode(&message.payload).ok()?;
        let device = self.ledger.devices.get(name)?;
        let axis = device.epochs.get(&request.epoch)?;
        let octets = request
            .used
            .checked_sub(axis.charged.value())
            .filter(|octets| octets.value() > 0)?;
        Some(UsageBatch {
            epoch: request.epoch,
            boot: device.boot,
            iccid: device.iccid.clone(),
            zone: request.zone,
            first: axis.mark.next()?,
            clock: 0,
            t0: 0,
            interval_s: 60,
            total: request.used,
            dt: Vec::new(),
            up: vec![0],
            down: vec![octets.value()],
            own: Vec::new(),
            flags: Vec::new(),
            spans: Vec::new(),
            unsure: Vec::new(),
        })
    }

    fn tamper_before(&mut self, name: &DeviceId, message: &Inbound) {
        let Some(device) = self.ledger.devices.get_mut(name) else {
            return;
        };
        let epoch = device.epoch;
        let Some(axis) = device.epochs.get_mut(&epoch) else {
            return;
        };
        match (self.mutant, message.up) {
            (Some(Mutant::AnswerNotStored), Up::Credit) => axis.last = None,
            (Some(Mutant::StaleDecided), Up::Credit) => {
                if let Some(last) = &mut axis.last {
                    last.number = simquota_shared::units::RequestNumber::ZERO;
                    last.used = Octets::ZERO;
                }
            }
            (Some(Mutant::SegmentsReversed), Up::Usage) => {
                axis.segments.make_contiguous().reverse();
            }
            (Some(Mutant::LeaseNotMoved), Up::Credit) => self.lease_before = axis.lease_until,
            (Some(Mutant::LateDropped), Up::Usage) => {
                self.closed_before = axis.closed;
                axis.closed |= !axis.late.is_empty();
            }
            _ => {}
        }
    }

    fn tamper_pushes(&self, outgoing: &mut [Outgoing]) {
        if self.mutant == Some(Mutant::PushUnbacked) {
            retouch::<CreditAnswer>(outgoing, Down::Credit, |answer| {
                if answer.push > Push::ZERO {
                    answer.ceiling.0 += 50_000;
                }
            });
        }
    }

    fn tamper_after(&mut self, name: &DeviceId, message: &Inbound, outgoing: &mut [Outgoing]) {
        let Some(device) = self.ledger.devices.get_mut(name) else {
            return;
        };
        let epoch = device.epoch;
        let Some(axis) = device.epochs.get_mut(&epoch) else {
            return;
        };
        match (self.mutant, message.up) {
            (Some(Mutant::MarkNotMoved), Up::Usage) => {
                axis.mark = simquota_shared::units::Seq::ZERO
            }
            (Some(Mutant::MarkTooFar), Up::Usage) => {
                axis.mark.0 += 1;
                retouch::<UsageAck>(outgoing, Down::Usage, |ack| ack.mark.0 += 1);
            }
            (Some(Mutant::LeaseNotMoved | Mutant::LeaseShortened), Up::Credit) => {
                let Some(last) = axis.last.as_ref().filter(|last| last.kind == Kind::Update) else {
                    return;
                };
                let lease = match (self.mutant, last.valid_until) {
                    (Some(Mutant::LeaseNotMoved), _) => self.lease_before,
                    (_, Some(until)) => {
                        UnixMillis(last.decided.value() + 2 * until.beyond(last.decided))
                    }
                    (_, None) => return,
                };
                let before = (axis.lease_until, name.clone(), epoch);
                if self.ledger.index.leases.remove(&before) {
                    axis.lease_until = lease;
                    self.ledger
                        .index
                        .leases
                        .insert((lease, name.clone(), epoch));
                }
            }
            (Some(Mutant::LateDropped), Up::Usage) => axis.closed = self.closed_before,
            (Some(Mutant::CeilingPromised), Up::Credit) => {
                retouch::<CreditAnswer>(outgoing, Down::Credit, |answer| {
                    answer.ceiling.0 += 50_000;
                });
            }
            (Some(Mutant::CeilingLowered), Up::Credit) => {
                // Half of what is left is taken back, in the ledger and in the answer.
                let keep = Octets(axis.ceiling.beyond(axis.charged) / 2);
                let update = axis
                    .last
                    .as_ref()
                    .is_some_and(|last| last.kind == Kind::Update);
                if update && keep > Octets::ZERO {
                    let (kept, gone) = axis.split(keep);
                    axis.segments = kept;
                    axis.ceiling = Octets(axis.charged.value() + keep.value());
                    let ceiling = axis.ceiling;
                    for segment in gone {
                        if let Some(package) = segment
                            .package
                            .and_then(|package| self.ledger.packages.get_mut(&package))
                        {
                            package.balances.reserved.0 -= segment.octets.value();
                            package.balances.available.0 += segment.octets.value();
                        }
                    }
                    retouch::<CreditAnswer>(outgoing, Down::Credit, |answer| {
                        answer.ceiling = ceiling
                    });
                }
            }
            _ => {}
        }
    }
}

fn replay(ledger: &mut Ledger, entries: &[Entry]) -> Result<(), String> {
    entries.iter().try_for_each(|entry| {
        ledger
            .apply(entry)
            .map_err(|broken| format!("the journal does not load: {broken}"))
    })
}

/// Changes messages of one kind on their way out.
fn retouch<T>(outgoing: &mut [Outgoing], down: Down, change: impl Fn(&mut T))
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    for message in outgoing {
        // The topic says what it is: without it one kind can decode as another.
        if matches!(&message.topic, Topic::Down(_, found) if *found == down)
            && let Ok(mut decoded) = decode::<T>(&message.payload)
        {
            change(&mut decoded);
            if let Ok(payload) = encode(&decoded) {
                message.payload = payload;
            }
        }
    }
}

fn decide(
    turn: &mut Turn<'_>,
    name: &DeviceId,
    message: &Inbound,
    debit: Option<UsageBatch>,
) -> Result<Option<&'static str>, Broken> {
    let kid = device_kid(message.generation);
    let request = match message.up {
        Up::Register => decode(&message.payload).map(DeviceRequest::Register),
        Up::Usage => decode(&message.payload).map(DeviceRequest::Usage),
        Up::Credit => decode(&message.payload).map(DeviceRequest::Credit),
        Up::Ack => decode(&message.payload).map(DeviceRequest::Ack),
        Up::Status => decode(&message.payload).map(DeviceRequest::Status),
    };
    let Ok(request) = request else {
        return Ok(Some("undecodable"));
    };
    if let Some(debit) = debit {
        turn.device(name, &kid, DeviceRequest::Usage(debit))?;
    }
    match turn.device(name, &kid, request)? {
        Verdict::Done | Verdict::Query(_) => Ok(None),
        Verdict::Refused(refusal) => Ok(Some(refusal.reason)),
    }
}
