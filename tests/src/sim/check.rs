//! What must hold after every event, and at the end.

use std::collections::{BTreeMap, VecDeque};

use simquota_cloud::ledger::account::{Account, Pocket};
use simquota_cloud::ledger::audit::Audit;
use simquota_cloud::ledger::entry::{Cause, Entry, Segment, Subject};
use simquota_edge::agent::{Identity, Input};
use simquota_shared::codec::decode;
use simquota_shared::ids::{DeviceId, PackageId};
use simquota_shared::message::{CreditAnswer, Kind};
use simquota_shared::topic::Down;
use simquota_shared::units::Epoch;

use super::cloud::fleet;
use super::device::Body;
use super::plan::MINUTE;
use super::run::Simulation;
use crate::late::Lateness;

/// Who was to pay for which position: kept from what was said, not from what the ledger keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Positions(BTreeMap<(DeviceId, Epoch), VecDeque<Segment>>);

impl Positions {
    /// Follows an entry; says what is wrong with it.
    fn follow(&mut self, entry: &Entry) -> Option<String> {
        let Subject::Device(device) = &entry.subject else {
            return None;
        };
        let axis = |positions: &mut Self, epoch: Epoch| -> VecDeque<Segment> {
            positions
                .0
                .remove(&(device.clone(), epoch))
                .unwrap_or_default()
        };
        let (epoch, after) = match &entry.cause {
            Cause::Credit(credit) => {
                let mut segments = axis(self, credit.epoch);
                let mut kept = take(&mut segments, credit.kept.value());
                kept.extend(credit.appended.iter().cloned());
                (credit.epoch, kept)
            }
            Cause::Pushed(pushed) => {
                let mut segments = axis(self, pushed.epoch);
                segments.extend(pushed.appended.iter().cloned());
                (pushed.epoch, segments)
            }
            Cause::Covered(covered) => (covered.epoch, covered.segments.iter().cloned().collect()),
            Cause::Usage(usage) => {
                let mut segments = axis(self, usage.epoch);
                let taken = take(&mut segments, usage.from_segments.value());
                if let Some(wrong) = compare(entry, &taken) {
                    return Some(wrong);
                }
                (usage.epoch, segments)
            }
            Cause::Closed(closed) => (closed.epoch, VecDeque::new()),
            Cause::Lapsed(lapsed) => (lapsed.epoch, VecDeque::new()),
            _ => return None,
        };
        self.0.insert((device.clone(), epoch), after);
        None
    }
}

fn take(segments: &mut VecDeque<Segment>, mut octets: u64) -> VecDeque<Segment> {
    let mut taken = VecDeque::new();
    while octets > 0 {
        let Some(front) = segments.front_mut() else {
            break;
        };
        let part = front.octets.value().min(octets);
        taken.push_back(Segment {
            package: front.package.clone(),
            octets: part.into(),
        });
        octets -= part;
        front.octets.0 -= part;
        if front.octets.0 == 0 {
            segments.pop_front();
        }
    }
    taken
}

fn compare(entry: &Entry, taken: &VecDeque<Segment>) -> Option<String> {
    let mut expected: BTreeMap<PackageId, u64> = BTreeMap::new();
    for segment in taken {
        if let Some(package) = &segment.package {
            *expected.entry(package.clone()).or_default() += segment.octets.value();
        }
    }
    let mut booked: BTreeMap<PackageId, u64> = BTreeMap::new();
    for movement in &entry.moves {
        if let (Account::Package(package, Pocket::Reserved), Account::Package(_, Pocket::Used)) =
            (&movement.from, &movement.to)
        {
            *booked.entry(package.clone()).or_default() += movement.octets.value();
        }
    }
    (expected != booked).then(|| {
        format!(
            "entry {}: by position {expected:?} pay, booked is {booked:?}",
            entry.number
        )
    })
}

impl Body {
    /// Octets in the kernel's counter that no durable row accounts for yet.
    pub(super) fn unaccounted(&self) -> u64 {
        let position = self
            .disk
            .state
            .as_ref()
            .and_then(|state| state.position.as_ref());
        match position {
            Some(position) if self.is_of(&position.identity) => {
                self.total().saturating_sub(position.up + position.down)
            }
            Some(_) => self.total(),
            None => self.total() - self.baseline,
        }
    }

    /// Every octet that passed is metered, not read yet, or known to be lost; `used` is the agent's total.
    fn miscounted(&self, used: u64) -> Option<String> {
        if self.rolled_ever {
            return None;
        }
        let past: u64 = self.past.values().map(|past| past.used).sum();
        let unread = self.total() - self.read_at;
        (past + used + unread + self.lost != self.really).then(|| {
            format!(
                "{} octets passed, {used} are metered, {past} in epochs before, {unread} not read yet and {} lost",
                self.really, self.lost
            )
        })
    }

    /// Whether a stored position is of the counter that runs now.
    pub(super) fn is_of(&self, identity: &Identity) -> bool {
        *identity == self.identity
    }
}

impl Simulation {
    pub(super) fn check_device(&mut self, n: usize) {
        self.draw(n);
        if let Some(what) = self.wrong_with(n) {
            self.fail(format!("device {n}: {what}"));
        }
    }

    fn wrong_with(&self, n: usize) -> Option<String> {
        let device = self.devices.get(n)?;
        let body = &device.body;
        let durable = body.disk.state.as_ref()?;
        if body.open && body.limit_position > durable.credit.ceiling.value() {
            return Some(format!(
                "the gate is open up to {}, durable is a ceiling of {}",
                body.limit_position, durable.credit.ceiling
            ));
        }
        if body.open && body.enforced && body.limit_position > durable.armed.value() {
            return Some(format!(
                "the gate is open up to {}, durably armed is {}",
                body.limit_position, durable.armed
            ));
        }
        let found = self.cloud.ledger.devices.get(&body.id);
        let axis = found.and_then(|found| found.epochs.get(&durable.epoch));
        if let Some(axis) = axis
            && !body.rolled
            && !axis.closed
            && axis.charged > durable.used
        {
            return Some(format!(
                "{} octets are charged, {} were durably metered",
                axis.charged, durable.used
            ));
        }
        if let Some(axis) = axis
            && !body.rolled
            && !axis.closed
            && !self.restored
            && durable.last_seq() > axis.mark
            && body
                .disk
                .rows
                .values()
                .find(|row| row.last() > axis.mark)
                .is_none_or(|row| row.seq.value() > axis.mark.value() + 1)
        {
            return Some(format!(
                "samples after {} are gone from the device, and not in the ledger",
                axis.mark
            ));
        }
        let agent = device.agent.as_ref()?;
        if let Some(what) = body.miscounted(agent.used().value()) {
            return Some(what);
        }
        let state = agent.state();
        // Own octets, allowed hosts and the throttle have their stop: nothing passes beyond it.
        if body.enforced
            && !body.rolled
            && agent.used() > state.credit.ceiling.max(state.credit.stop)
        {
            return Some(format!(
                "{} octets are used, the ceiling is {} and the stop {}",
                agent.used(),
                state.credit.ceiling,
                state.credit.stop
            ));
        }
        let axis = found.and_then(|found| found.epochs.get(&state.epoch));
        let forgotten = self.unsettled.contains(&n);
        if agent.gate().open && state.credit.ceiling > agent.used() && !forgotten && !body.rolled {
            let backed = axis.map_or(0, |axis| axis.ceiling.value());
            if state.credit.ceiling.value() > backed {
                return Some(format!(
                    "it may use octets up to {}, the cloud backs them up to {backed}",
                    state.credit.ceiling
                ));
            }
        }
        if let Some(axis) = axis
            && state.acked > axis.mark
            && !axis.closed
            && !forgotten
            && !body.rolled
            && !self.restored
        {
            return Some(format!(
                "it deletes samples up to {}, the ledger holds them up to {}",
                state.acked, axis.mark
            ));
        }
        None
    }

    /// The same request gets the same answer, octet for octet.
    pub(super) fn check_answer(&mut self, device: &DeviceId, down: Down, payload: &[u8]) {
        if down != Down::Credit {
            return;
        }
        let Ok(answer) = decode::<CreditAnswer>(payload) else {
            return;
        };
        if !answer.code.is_decision() || answer.push.value() > 0 {
            return;
        }
        let key = (device.clone(), answer.epoch.value(), answer.number.value());
        match self.cloud.answers.get(&key) {
            Some(before) if before != payload => {
                self.fail(format!(
                    "{device}: request {} of epoch {} got two answers",
                    answer.number, answer.epoch
                ));
            }
            Some(_) => {}
            None => {
                self.cloud.answers.insert(key, payload.to_vec());
            }
        }
    }

    /// Each octet is paid by the package that its position was reserved from.
    pub(super) fn check_entries(&mut self, before: usize) {
        let mut wrong = None;
        for entry in self.cloud.journal.get(before..).unwrap_or_default() {
            let (positions, late) = (self.positions.follow(entry), self.late.follow(entry));
            wrong = wrong.or(positions).or(late);
        }
        if let Some(what) = wrong {
            self.fail(what);
        }
    }

    pub(super) fn forget_positions(&mut self) {
        self.positions = Positions::default();
        self.late = Lateness::default();
        self.check_entries(0);
    }

    /// A device that the restored cloud forgot something about is settled once it has cut and heard the answer.
    pub(super) fn unsettled_hears(&mut self, n: usize, input: &Input, payload: &[u8]) {
        let Input::Credit(answer) = input else { return };
        let Some(agent) = self.devices.get(n).and_then(|device| device.agent.as_ref()) else {
            return;
        };
        let state = agent.state();
        let cut =
            state.credit.outstanding.as_ref().is_some_and(|request| {
                request.kind != Kind::Update && request.number == answer.number
            });
        let key = (
            self.devices[n].body.id.clone(),
            answer.epoch.value(),
            answer.number.value(),
        );
        let before = self
            .cloud
            .forgotten
            .get(&key)
            .is_some_and(|old| old == payload);
        if cut && answer.epoch == state.epoch && answer.code.is_decision() && !before {
            self.unsettled.remove(&n);
        }
    }

    pub(super) fn check_rest(&mut self) {
        let faults = self.cloud.ledger.violations();
        if let Some(fault) = faults.first() {
            self.fail(fault.clone());
            return;
        }
        let audit = Audit::run(
            self.cloud
                .journal
                .iter()
                .map(Ok::<_, std::convert::Infallible>),
        );
        if let Some(fault) = audit.faults.first() {
            self.fail(format!("audit: {fault}"));
            return;
        }
        for n in 0..self.devices.len() {
            if let Some(what) = self.wrong_at_rest(n) {
                self.fail(format!("device {n} at rest: {what}"));
                return;
            }
        }
    }

    /// Whether nothing is left to settle.
    pub(super) fn is_at_rest(&self) -> bool {
        (0..self.devices.len()).all(|n| self.wrong_at_rest(n).is_none())
    }

    fn wrong_at_rest(&self, n: usize) -> Option<String> {
        let now = self.cloud.clock(self.now);
        let restored = self.restored;
        let device = self.devices.get(n)?;
        let Some(agent) = device.agent.as_ref() else {
            return Some("it has not started".to_owned());
        };
        let view = agent.status_view();
        let body = &device.body;
        let Some(durable) = &body.disk.state else {
            return Some("nothing is stored".to_owned());
        };
        let Some(found) = self.cloud.ledger.devices.get(&body.id) else {
            return Some("the cloud never met it".to_owned());
        };
        let Some(axis) = found.epochs.get(&durable.epoch) else {
            return Some(format!(
                "the cloud does not know its epoch {}; state {}",
                durable.epoch, view.state
            ));
        };
        if axis.charged != durable.used {
            return Some(format!(
                "{} are charged, {} were durably metered",
                axis.charged, durable.used
            ));
        }
        if view.backlog > 0 {
            return Some(format!("{} samples are not acknowledged", view.backlog));
        }
        let mut lost = body.lost;
        let mut metered = durable.used.value() + view.unsynced + (body.total() - body.read_at);
        for (epoch, past) in &body.past {
            let charged = found
                .epochs
                .get(epoch)
                .map_or(0, |axis| axis.charged.value());
            let fits = if past.closed && !restored {
                charged == past.used
            } else {
                charged <= past.used
            };
            if !fits && !body.rolled_ever {
                return Some(format!(
                    "epoch {epoch} ended at {}, charged are {charged}",
                    past.used
                ));
            }
            lost += past.used - charged.min(past.used);
            metered += charged.min(past.used);
        }
        if !body.rolled_ever && metered + lost != body.really {
            return Some(format!(
                "{} octets passed, {metered} are metered and {lost} lost with power or store",
                body.really
            ));
        }
        if body.rolled_ever && u64::try_from(found.charged()).unwrap_or(u64::MAX) > body.really {
            return Some(format!(
                "{} are charged, only {} passed",
                found.charged(),
                body.really
            ));
        }
        for (epoch, axis) in &found.epochs {
            let live = now.value() < axis.lease_until.value() + 10 * MINUTE;
            if axis.ceiling > axis.charged && !live {
                return Some(format!("epoch {epoch} keeps a reservation without a lease"));
            }
        }
        if !found.pending.is_empty() {
            return Some(format!("{} commands are not settled", found.pending.len()));
        }
        let usable = view.gate_open && view.remaining > 0;
        let zone = axis.last.as_ref().map(|last| last.zone.clone());
        let balance: u64 = self
            .cloud
            .ledger
            .packages
            .values()
            .filter(|package| {
                package
                    .device
                    .as_ref()
                    .is_none_or(|owner| *owner == body.id)
            })
            .filter(|package| zone.as_ref().is_none_or(|zone| package.serves(zone, now)))
            .filter(|package| package.fleet == fleet())
            .map(|package| package.balances.available.value())
            .sum();
        if balance > 0 && !usable && view.state != "idle" {
            return Some(format!(
                "it is {} without quota while {balance} octets are available",
                view.state
            ));
        }
        None
    }
}
