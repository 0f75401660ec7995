//! Applying an entry: the one way by which a ledger changes.

mod rule;

use std::collections::VecDeque;

use simquota_shared::ids::DeviceId;
use simquota_shared::message::ops::Blob;
use simquota_shared::units::{Epoch, Octets, Push, UnixMillis};

use super::account::{Account, Move, Pocket};
use super::chain::{self, GENESIS};
use super::device::{Axis, Device, LATE_MAX, Last, Late, Pending};
use super::entry::{
    Cause, Commanded, Covered, Credit, Entry, PackageBought, Pushed, Registered, Segment, Subject,
    Usage,
};
use super::fleet::Fleet;
use super::pace::Pace;
use super::package::{Balances, Package};
use super::{Alarm, Broken, Done, Enrolment, Ledger, PersonKey, Sim, total};

impl Ledger {
    /// Makes the next entry of the journal and applies it.
    ///
    /// # Errors
    /// [`Broken`]: the ledger must be thrown away and reloaded.
    pub fn record(
        &mut self,
        at: UnixMillis,
        subject: Subject,
        cause: Cause,
        moves: Vec<Move>,
    ) -> Result<Entry, Broken> {
        let number = self
            .last
            .next()
            .ok_or(Broken::Balance("the journal has no more numbers"))?;
        let before = self.chains.get(&subject).copied().unwrap_or(GENESIS);
        let mut entry = Entry {
            number,
            at: at.max(self.now),
            subject,
            cause,
            moves,
            chain: Blob(Vec::new()),
        };
        let link = chain::link(before, &entry)
            .map_err(|error| Broken::Encode(number, error.to_string()))?;
        entry.chain = Blob(link.to_vec());
        self.apply_linked(&entry, link)?;
        Ok(entry)
    }

    /// Applies an entry that was read from the journal, checking number, time and hash chain first.
    ///
    /// # Errors
    /// [`Broken`] names the entry and what is wrong with it.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Broken> {
        let before = self.chains.get(&entry.subject).copied().unwrap_or(GENESIS);
        let link = chain::link(before, entry)
            .map_err(|error| Broken::Encode(entry.number, error.to_string()))?;
        if entry.chain.0 != link {
            return Err(Broken::Chain(entry.number, subject_name(&entry.subject)));
        }
        self.apply_linked(entry, link)
    }

    fn apply_linked(&mut self, entry: &Entry, link: chain::Link) -> Result<(), Broken> {
        if self.last.next() != Some(entry.number) {
            return Err(Broken::Number {
                last: self.last,
                found: entry.number,
            });
        }
        if entry.at < self.now {
            return Err(Broken::Time(entry.number));
        }
        if let Cause::PackageBought(bought) = &entry.cause {
            self.add_package(entry, bought)?;
        }
        for movement in &entry.moves {
            self.apply_move(movement)?;
        }
        self.apply_cause(entry)?;
        self.rearm(&entry.moves)?;
        self.check_touched(entry)?;
        self.note_versions(entry);
        self.last = entry.number;
        self.now = entry.at;
        self.chains.insert(entry.subject.clone(), link);
        Ok(())
    }

    fn apply_move(&mut self, movement: &Move) -> Result<(), Broken> {
        let Move { from, to, octets } = movement;
        match from {
            Account::Package(id, pocket) => {
                self.package_mut(id)?.balances.take(*pocket, *octets)?
            }
            Account::Device(id, slot) => self.device_mut(id)?.take(*slot, *octets)?,
            Account::Fleet(_, _) => return self.apply_money(movement),
        }
        match to {
            Account::Package(id, pocket) => {
                let package = self.package_mut(id)?;
                package.balances.put(*pocket, *octets)?;
                if *pocket == Pocket::Used && package.balances.used >= package.alarm_at {
                    self.index.alarms.insert(Alarm::Package(id.clone()));
                }
                Ok(())
            }
            Account::Device(id, slot) => self.device_mut(id)?.put(*slot, *octets),
            Account::Fleet(_, _) => Err(Broken::Balance("octets are not money")),
        }
    }

    fn apply_cause(&mut self, entry: &Entry) -> Result<(), Broken> {
        match &entry.cause {
            Cause::FleetCreated(created) => {
                if !self.fleets.insert(created.fleet.clone()) {
                    return Err(exists("fleet", &created.fleet));
                }
            }
            Cause::KeyCreated(created) => {
                let key = PersonKey {
                    role: created.role,
                    fleet: created.fleet.clone(),
                };
                if self.keys.insert(created.key.clone(), key).is_some() {
                    return Err(exists("key", &created.key));
                }
            }
            Cause::EnrolmentCreated(created) => {
                let enrolment = Enrolment {
                    fleet: created.fleet.clone(),
                    devices_max: created.devices_max,
                    devices: 0,
                };
                if self
                    .enrolments
                    .insert(created.enrolment.clone(), enrolment)
                    .is_some()
                {
                    return Err(exists("enrolment key", &created.enrolment));
                }
            }
            Cause::SimsImported(imported) => {
                for profile in &imported.sims {
                    let sim = Sim {
                        profile: profile.clone(),
                        device: None,
                    };
                    if self.sims.insert(profile.iccid.clone(), sim).is_some() {
                        return Err(exists("SIM", &profile.iccid));
                    }
                    self.index.free_sims.insert(profile.iccid.clone());
                }
            }
            Cause::Registered(registered) => {
                self.register(entry, registered)?;
                self.subject_device(entry)?.heard = entry.at;
            }
            Cause::PackageBought(_) | Cause::Credited(_) => {}
            Cause::Covered(covered) => self.cover(entry, covered)?,
            Cause::DebtPaid(_) => self.settle_debt(entry)?,
            Cause::Credit(credit) => {
                if credit.code.is_success() {
                    self.end_standstill(entry)?;
                }
                self.credit(entry, credit)?;
                self.subject_device(entry)?.heard = entry.at;
            }
            Cause::Pushed(pushed) => {
                self.end_standstill(entry)?;
                self.push(entry, pushed)?;
            }
            Cause::Usage(usage) => {
                self.usage(entry, usage)?;
                self.subject_device(entry)?.heard = entry.at;
            }
            Cause::Closed(closed) => {
                self.charge(
                    entry,
                    closed.epoch,
                    closed.total,
                    closed.from_segments,
                    None,
                )?;
                self.change_axis(entry, closed.epoch, |axis| {
                    axis.closed = true;
                    axis.ceiling = axis.charged;
                    axis.segments.clear();
                    axis.open = false;
                    Ok(())
                })?;
            }
            Cause::Lapsed(lapsed) => self.change_axis(entry, lapsed.epoch, |axis| {
                remember_late(axis);
                axis.ceiling = axis.charged;
                axis.segments.clear();
                axis.open = false;
                Ok(())
            })?,
            Cause::PackageEnded(ended) => {
                let package = self.package_mut(&ended.package)?;
                package.ended = true;
                package.cancelled = ended.refunded;
                let (owner, until) = (package.owner(), package.until);
                self.forget_terms(&ended.package)?;
                if let Some(open) = self.index.open.get_mut(&owner) {
                    open.remove(&ended.package);
                }
                if let Some(until) = until {
                    self.index.ends.remove(&(until, ended.package.clone()));
                }
            }
            Cause::Suspension(suspension) => {
                self.subject_device(entry)?.suspended = suspension.suspended
            }
            Cause::Commanded(commanded) => self.command(entry, commanded)?,
            Cause::CommandSettled(settled) => {
                let device = self.subject_device(entry)?;
                device.pending.remove(&settled.number);
                if device.pending.is_empty() {
                    let id = self.subject_id(entry)?.clone();
                    self.index.commanded.remove(&id);
                }
            }
            Cause::PolicySet(set) => self.subject_device(entry)?.policy = Some(set.policy.clone()),
            Cause::AccessChanged(changed) => self.change_access(changed)?,
            Cause::Suspected(suspected) => {
                let id = self.subject_id(entry)?.clone();
                self.access.suspect(&id, &suspected.reason, entry.at);
            }
            Cause::CommandDone(done) => {
                let stored = Done {
                    body: done.body.0.clone(),
                    name: done.name.to_string(),
                    code: done.code,
                    reply: done.reply.0.clone(),
                    entry: entry.number,
                };
                self.done
                    .insert((done.fleet.clone(), done.id.clone()), stored);
            }
            Cause::TermsSet(_)
            | Cause::PackageBegan(_)
            | Cause::PlanBegan(_)
            | Cause::PlanTurned(_)
            | Cause::PlanEnded(_)
            | Cause::Overdrawn(_)
            | Cause::Moved(_)
            | Cause::Debited(_)
            | Cause::Refunded(_)
            | Cause::Crossed(_)
            | Cause::LimitsSet(_)
            | Cause::WindowsTurned(_)
            | Cause::DeviceCapsSet(_)
            | Cause::LimitReached(_)
            | Cause::ThresholdsSet(_)
            | Cause::TopUpSet(_)
            | Cause::ToppedUp(_)
            | Cause::FleetSuspension(_)
            | Cause::FleetTold(_)
            | Cause::MoneyMoved(_)
            | Cause::MoneyRefunded(_) => self.apply_rule(entry)?,
            Cause::BulkBegan(_)
            | Cause::BulkWent(_)
            | Cause::TagsSet(_)
            | Cause::SimReleased(_)
            | Cause::SimAssigned(_)
            | Cause::Replaced(_)
            | Cause::Replaces(_)
            | Cause::Decommissioned(_) => self.apply_estate(entry)?,
        }
        Ok(())
    }

    fn add_package(&mut self, entry: &Entry, bought: &PackageBought) -> Result<(), Broken> {
        let package = Package {
            fleet: bought.fleet.clone(),
            device: bought.device.clone(),
            bought: entry.number,
            until: bought.until,
            zones: bought.zones.clone(),
            priority: bought.priority,
            ended: false,
            cancelled: false,
            balances: Balances::default(),
            terms: None,
            alarm_at: Octets(u64::MAX),
            level: 0,
            crossings: 0,
        };
        self.index
            .open
            .entry(package.owner())
            .or_default()
            .insert(bought.package.clone());
        if let Some(until) = bought.until {
            self.index.ends.insert((until, bought.package.clone()));
        }
        match self.packages.insert(bought.package.clone(), package) {
            Some(_) => Err(exists("package", &bought.package)),
            None => Ok(()),
        }
    }

    fn register(&mut self, entry: &Entry, registered: &Registered) -> Result<(), Broken> {
        let id = self.subject_id(entry)?.clone();
        let known = self.devices.contains_key(&id);
        if !known {
            let enrolment = self
                .enrolments
                .get_mut(&registered.enrolment)
                .ok_or_else(|| missing("enrolment key", &registered.enrolment))?;
            enrolment.devices = enrolment
                .devices
                .checked_add(1)
                .ok_or(Broken::Balance("an enrolment key's count overflows"))?;
            let mut device = new_device(entry, registered);
            if self
                .accounts
                .get(&registered.fleet)
                .is_some_and(Fleet::counts)
            {
                device.spent = Some(Box::default());
            }
            self.devices.insert(id.clone(), device);
            self.index
                .members
                .entry(registered.fleet.clone())
                .or_default()
                .insert(id.clone());
        }
        let sim = self
            .sims
            .get_mut(&registered.iccid)
            .ok_or_else(|| missing("SIM", &registered.iccid))?;
        if sim.device.as_ref().is_some_and(|other| *other != id) {
            return Err(exists("binding of SIM", &registered.iccid));
        }
        sim.device = Some(id.clone());
        self.index.free_sims.remove(&registered.iccid);
        let device = self.device_mut(&id)?;
        let another = known && !device.epochs.contains_key(&registered.epoch);
        device.generation = registered.generation;
        device.model = registered.model.clone();
        device.firmware = registered.firmware.clone();
        device.iccid = registered.iccid.clone();
        device.epoch = registered.epoch;
        device.boot = registered.boot;
        device.registered = entry.at;
        device.epochs.entry(registered.epoch).or_default();
        if another {
            self.access.began_epoch(&id, entry.at);
        }
        Ok(())
    }

    fn cover(&mut self, entry: &Entry, covered: &Covered) -> Result<(), Broken> {
        self.change_axis(entry, covered.epoch, |axis| {
            axis.segments = covered.segments.iter().cloned().collect();
            Ok(())
        })
    }

    fn settle_debt(&mut self, entry: &Entry) -> Result<(), Broken> {
        let id = self.subject_id(entry)?.clone();
        let device = self.device_mut(&id)?;
        if device.debt == Octets::ZERO
            && let Some(since) = device.debt_since.take()
        {
            let key = (device.fleet.clone(), since, id);
            self.index.debtors.remove(&key);
        }
        Ok(())
    }

    fn credit(&mut self, entry: &Entry, credit: &Credit) -> Result<(), Broken> {
        self.change_axis(entry, credit.epoch, |axis| {
            let (kept, _) = axis.split(credit.kept);
            axis.segments = kept;
            for segment in &credit.appended {
                axis.push_back(segment)?;
            }
            axis.ceiling = credit.ceiling;
            axis.open = credit.code.is_success() && credit.valid_until.is_some()
                || axis.ceiling > axis.charged && credit.valid_until.is_some();
            axis.lease_until = credit.lease_until;
            axis.last = Some(Last {
                number: credit.number,
                kind: credit.kind,
                request: credit.request.0.clone(),
                used: credit.used,
                want: credit.want,
                zone: credit.zone.clone(),
                code: credit.code,
                decided: entry.at,
                valid_until: credit.valid_until,
                final_unit: credit.final_unit.clone(),
                answer: credit.answer.0.clone(),
                push: Push::ZERO,
                pushed: Vec::new(),
            });
            Ok(())
        })
    }

    /// A device that is no longer refused: the time in which it was does not count into its pace.
    fn end_standstill(&mut self, entry: &Entry) -> Result<(), Broken> {
        let device = self.subject_device(entry)?;
        if device.is_refused() {
            device.pace = device.pace.resumed(entry.at);
        }
        Ok(())
    }

    fn push(&mut self, entry: &Entry, pushed: &Pushed) -> Result<(), Broken> {
        self.change_axis(entry, pushed.epoch, |axis| {
            for segment in &pushed.appended {
                axis.push_back(segment)?;
            }
            axis.ceiling = pushed.ceiling;
            axis.open = true;
            let last = axis
                .last
                .as_mut()
                .ok_or(Broken::Balance("a push without an answer before it"))?;
            last.push = pushed.push;
            last.final_unit = pushed.final_unit.clone();
            last.code = simquota_shared::code::Code::SUCCESS;
            last.pushed = pushed.answer.0.clone();
            Ok(())
        })
    }

    fn usage(&mut self, entry: &Entry, usage: &Usage) -> Result<(), Broken> {
        let device = self.subject_device(entry)?;
        let charged = device.epochs.get(&usage.epoch).map(|axis| axis.charged);
        let octets = usage.total.beyond(charged.unwrap_or(usage.total));
        device.pace = device.pace.after(Octets(octets), entry.at);
        let ended = usage
            .ended_s
            .and_then(|seconds| UnixMillis::ZERO.plus_s(seconds));
        self.charge(entry, usage.epoch, usage.total, usage.from_segments, ended)?;
        self.change_axis(entry, usage.epoch, |axis| {
            axis.mark = usage.last;
            axis.unsure = axis
                .unsure
                .checked_add(usage.unsure.value())
                .ok_or(Broken::Balance("the declared octets overflow"))?;
            Ok(())
        })
    }

    /// Moves the charged position right and books who paid on the device's side.
    fn charge(
        &mut self,
        entry: &Entry,
        epoch: Epoch,
        to: Octets,
        from_segments: Octets,
        ended: Option<UnixMillis>,
    ) -> Result<(), Broken> {
        let id = self.subject_id(entry)?.clone();
        let debited = entry
            .moves
            .iter()
            .filter(|movement| matches!(movement.to, Account::Package(_, Pocket::Used)))
            .try_fold(Octets::ZERO, |sum, movement| {
                sum.checked_add(movement.octets.value())
            })
            .ok_or(Broken::Balance("a debit overflows"))?;
        let device = self.device_mut(&id)?;
        device.debited = device
            .debited
            .checked_add(debited.value())
            .ok_or(Broken::Balance("a device's debits overflow"))?;
        let counts = device.spent.is_some();
        if device.debt > Octets::ZERO && device.debt_since.is_none() {
            device.debt_since = Some(entry.number);
            let key = (device.fleet.clone(), entry.number, id);
            self.index.debtors.insert(key);
        }
        if counts {
            let id = self.subject_id(entry)?.clone();
            self.count_use(entry, &id, (epoch, to), ended)?;
        }
        self.change_axis(entry, epoch, |axis| {
            let taken = axis.pop_front(from_segments);
            if total(&taken)? != from_segments {
                return Err(Broken::Balance("a debit takes more than the segments hold"));
            }
            axis.charged = to;
            // Past the ceiling nothing is reserved: the ceiling stands where it was said to stand.
            axis.late.retain(|late| late.to > to);
            Ok(())
        })
    }

    fn command(&mut self, entry: &Entry, commanded: &Commanded) -> Result<(), Broken> {
        let id = self.subject_id(entry)?.clone();
        let device = self.device_mut(&id)?;
        device.commands = commanded.number;
        let pending = Pending {
            id: commanded.id.clone(),
            message: commanded.message.0.clone(),
            expires: commanded.expires,
        };
        device.pending.insert(commanded.number, pending);
        self.index.commanded.insert(id);
        Ok(())
    }

    /// Changes one epoch's axis and keeps the index of leases.
    fn change_axis(
        &mut self,
        entry: &Entry,
        epoch: Epoch,
        change: impl FnOnce(&mut Axis) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let id = self.subject_id(entry)?.clone();
        let axis = self
            .devices
            .get_mut(&id)
            .and_then(|device| device.epochs.get_mut(&epoch))
            .ok_or_else(|| missing("epoch", &epoch))?;
        let before = axis.has_lease().then_some(axis.lease_until);
        change(axis)?;
        self.note_waiting(&id);
        let axis = self
            .devices
            .get(&id)
            .and_then(|device| device.epochs.get(&epoch))
            .ok_or_else(|| missing("epoch", &epoch))?;
        let after = axis.has_lease().then_some(axis.lease_until);
        if before != after {
            if let Some(lease_until) = before {
                self.index.leases.remove(&(lease_until, id.clone(), epoch));
            }
            if before.is_some() != after.is_some()
                && let Some(device) = self.devices.get(&id)
            {
                let fleet = device.fleet.clone();
                let count = self.index.leased.entry(fleet).or_default();
                *count = match after {
                    Some(_) => count.saturating_add(1),
                    None => count.saturating_sub(1),
                };
            }
            if let Some(lease_until) = after {
                self.index.leases.insert((lease_until, id, epoch));
            }
        }
        Ok(())
    }

    fn note_waiting(&mut self, id: &DeviceId) {
        let Some(device) = self.devices.get(id) else {
            return;
        };
        if device.waits() {
            self.index
                .waiting
                .entry(device.fleet.clone())
                .or_default()
                .insert(id.clone());
        } else if let Some(waiting) = self.index.waiting.get_mut(&device.fleet) {
            waiting.remove(id);
        }
    }

    fn check_touched(&self, entry: &Entry) -> Result<(), Broken> {
        let broken = |name: String| Broken::Identity(entry.number, name);
        for movement in &entry.moves {
            for account in [&movement.from, &movement.to] {
                if let Account::Package(id, _) = account
                    && !self
                        .packages
                        .get(id)
                        .is_some_and(|package| package.balances.hold())
                {
                    return Err(broken(format!("package {id}")));
                }
                if let Account::Fleet(id, _) = account
                    && !self
                        .accounts
                        .get(id)
                        .is_some_and(|fleet| fleet.purse.holds())
                {
                    return Err(broken(format!("fleet {id}")));
                }
            }
        }
        if let Subject::Device(id) = &entry.subject
            && !self.devices.get(id).is_some_and(Device::holds)
        {
            return Err(broken(format!("device {id}")));
        }
        Ok(())
    }

    fn subject_id<'a>(&self, entry: &'a Entry) -> Result<&'a DeviceId, Broken> {
        match &entry.subject {
            Subject::Device(id) => Ok(id),
            Subject::Fleet(_) | Subject::Platform => {
                Err(Broken::Balance("an entry about a device names none"))
            }
        }
    }

    fn subject_device(&mut self, entry: &Entry) -> Result<&mut Device, Broken> {
        let id = self.subject_id(entry)?.clone();
        self.device_mut(&id)
    }

    fn device_mut(&mut self, id: &DeviceId) -> Result<&mut Device, Broken> {
        self.devices
            .get_mut(id)
            .ok_or_else(|| missing("device", id))
    }

    fn package_mut(
        &mut self,
        id: &simquota_shared::ids::PackageId,
    ) -> Result<&mut Package, Broken> {
        self.packages
            .get_mut(id)
            .ok_or_else(|| missing("package", id))
    }
}

fn new_device(entry: &Entry, registered: &Registered) -> Device {
    Device {
        fleet: registered.fleet.clone(),
        enrolment: registered.enrolment.clone(),
        generation: registered.generation,
        serial: registered.serial.clone(),
        model: registered.model.clone(),
        firmware: registered.firmware.clone(),
        iccid: registered.iccid.clone(),
        epoch: registered.epoch,
        boot: registered.boot,
        registered: entry.at,
        epochs: std::collections::BTreeMap::new(),
        suspended: false,
        commands: 0,
        pending: std::collections::BTreeMap::new(),
        policy: None,
        debited: Octets::ZERO,
        debt: Octets::ZERO,
        debt_since: None,
        paid: Octets::ZERO,
        forgiven: Octets::ZERO,
        control: Octets::ZERO,
        spent: None,
        heard: entry.at,
        pace: Pace::from(entry.at),
    }
}

/// What was reserved when a lease ran out is remembered, without octets: it directs late debits.
fn remember_late(axis: &mut Axis) {
    let segments: VecDeque<Segment> = axis.segments.clone();
    let mut from = axis.charged;
    for segment in segments {
        let to = from.checked_add(segment.octets.value()).unwrap_or(from);
        if let Some(package) = segment.package {
            axis.late.push_back(Late { from, to, package });
        }
        from = to;
    }
    while axis.late.len() > LATE_MAX {
        axis.late.pop_front();
    }
}

fn exists(what: &'static str, name: &impl std::fmt::Display) -> Broken {
    Broken::Name(what, name.to_string(), "exists already")
}

fn missing(what: &'static str, name: &impl std::fmt::Display) -> Broken {
    Broken::Name(what, name.to_string(), "does not exist")
}

/// A subject for people.
#[must_use]
pub(crate) fn subject_name(subject: &Subject) -> String {
    match subject {
        Subject::Device(id) => format!("device {id}"),
        Subject::Fleet(id) => format!("fleet {id}"),
        Subject::Platform => "the platform".to_owned(),
    }
}
