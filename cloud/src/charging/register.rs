//! Registration: S11 (verify the device, register a cloud SIM to it) and S12 (bind them to the fleet).

use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, EnrolmentId, Iccid, ZoneId};
use simquota_shared::message::{Command, Outcome, RegisterAnswer, RegisterRequest};
use simquota_shared::topic::Down;
use simquota_shared::units::{Epoch, Octets, Seq};

use super::{Turn, Verdict, encoded};
use crate::ledger::Broken;
use crate::ledger::device::Device;
use crate::ledger::entry::{Cause, Closed, CommandSettled, Registered, Subject, reason};

/// Why a device is not registered, and what it is told.
struct Denied {
    code: Code,
    retry: bool,
    reason: &'static str,
    detail: String,
    /// It looks like two devices with one key.
    two: bool,
}

impl Turn<'_> {
    pub(super) fn register(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        request: &RegisterRequest,
    ) -> Result<Verdict, Broken> {
        let known = self.ledger.devices.get(id);
        let outcome = match known {
            Some(device) => {
                self.known_device(id, device, request)
                    .and_then(|()| match self.ledger.sim_of(id) {
                        Some(iccid) => Ok(iccid.clone()),
                        None => self.free_sim(id, request),
                    })
            }
            None => self.admit(id, kid, request),
        };
        let iccid = match outcome {
            Ok(iccid) => iccid,
            Err(denied) => {
                let answer = self.registration(id, request, denied.code, denied.retry);
                self.say(id, kid, Down::Register, encoded(&answer)?, false);
                if denied.two {
                    self.freeze(id, denied.reason)?;
                }
                return Ok(Verdict::refused(denied.reason, denied.detail));
            }
        };
        let news = known.is_none_or(|device| {
            device.epoch != request.epoch
                || device.boot != request.boot
                || device.model != request.model
                || device.firmware != request.firmware
                || device.generation != u64::from(kid.generation)
                || self.ledger.sim_of(id) != Some(&iccid)
        });
        let orphans = known.is_some_and(|device| device.epoch != request.epoch);
        let second = self.holder(id, request).cloned();
        if news {
            self.close_before(id, request)?;
            let cause = self.registered(id, kid, request, iccid)?;
            self.record(
                Subject::Device(id.clone()),
                Cause::Registered(cause),
                Vec::new(),
            )?;
        }
        if orphans {
            let words = format!(
                "epoch {} began, and the device {} the total of the one before",
                request.epoch,
                if request.closes.is_some() {
                    "knows"
                } else {
                    "does not know"
                },
            );
            self.suspect(id, reason::STORE_RESET, &words)?;
            self.retell(id)?;
        }
        let answer = self.registration(id, request, Code::SUCCESS, false);
        self.say(id, kid, Down::Register, encoded(&answer)?, false);
        let Some(other) = second else {
            return Ok(Verdict::Done);
        };
        // It is served under the SIM that is bound to it, and told so. A SIM that was moved, a copied device, or a
        // cloud that was restored and has bound the SIM to somebody else since: that is for a person to find out.
        self.freeze(id, "second-sim")?;
        let detail = format!("device {id} reports the SIM of device {other}");
        Ok(Verdict::refused("second-sim", detail))
    }

    fn admit(&self, id: &DeviceId, kid: &Kid, request: &RegisterRequest) -> Result<Iccid, Denied> {
        let enrolment = kid
            .name
            .parse()
            .ok()
            .and_then(|name| self.ledger.enrolments.get(&name));
        let denied = |code, retry, reason, detail| {
            Err(Denied {
                code,
                retry,
                reason,
                detail,
                two: false,
            })
        };
        let Some(enrolment) = enrolment else {
            return denied(
                Code::USER_UNKNOWN,
                false,
                "unknown-enrolment",
                format!("device {id} names enrolment key {kid}, which is not admitted"),
            );
        };
        if enrolment.devices >= enrolment.devices_max {
            return denied(
                Code::SERVICE_DENIED,
                true,
                "enrolment-full",
                format!(
                    "enrolment key {kid} has admitted its {} devices",
                    enrolment.devices_max
                ),
            );
        }
        let until = kid
            .name
            .parse()
            .ok()
            .and_then(|name: EnrolmentId| self.ledger.access.until.get(&name));
        if until.is_some_and(|until| *until <= self.now) {
            return denied(
                Code::SERVICE_DENIED,
                true,
                "enrolment-closed",
                format!("enrolment key {kid} admits no more devices: open it, or use another"),
            );
        }
        self.free_sim(id, request)
    }

    /// The SIM that it reports, if that is free, else the first one.
    fn free_sim(&self, id: &DeviceId, request: &RegisterRequest) -> Result<Iccid, Denied> {
        let reported = request
            .iccid
            .as_ref()
            .filter(|iccid| self.ledger.index.free_sims.contains(*iccid));
        match reported.or_else(|| self.ledger.index.free_sims.first()) {
            Some(iccid) => Ok(iccid.clone()),
            None => Err(Denied {
                code: Code::SERVICE_DENIED,
                retry: true,
                reason: "no-free-sim",
                detail: format!("the pool has no free SIM for device {id}: import some"),
                two: false,
            }),
        }
    }

    /// The other device that the reported SIM is bound to.
    fn holder(&self, id: &DeviceId, request: &RegisterRequest) -> Option<&DeviceId> {
        let iccid = request.iccid.as_ref()?;
        let device = self.ledger.sims.get(iccid)?.device.as_ref()?;
        (device != id).then_some(device)
    }

    fn registered(
        &self,
        id: &DeviceId,
        kid: &Kid,
        request: &RegisterRequest,
        iccid: Iccid,
    ) -> Result<Registered, Broken> {
        let enrolment: simquota_shared::ids::EnrolmentId = kid
            .name
            .parse()
            .map_err(|_| Broken::Name("enrolment key", kid.name.clone(), "is not an id"))?;
        let fleet = match self.ledger.devices.get(id) {
            Some(device) => device.fleet.clone(),
            None => match self.ledger.enrolments.get(&enrolment) {
                Some(enrolment) => enrolment.fleet.clone(),
                None => {
                    return Err(Broken::Name(
                        "enrolment key",
                        kid.to_string(),
                        "does not exist",
                    ));
                }
            },
        };
        Ok(Registered {
            fleet,
            enrolment,
            generation: u64::from(kid.generation),
            epoch: request.epoch,
            boot: request.boot,
            serial: request.serial.clone(),
            model: request.model.clone(),
            firmware: request.firmware.clone(),
            iccid,
        })
    }

    /// A never-seen epoch ends the one before. If the device still knows its used total, the epoch is charged to
    /// there and closed; without that its reservation is released, and late samples are charged by their mark
    /// (DESIGN section 4, "When the two sides disagree").
    ///
    /// A store that closes another epoch than the present one lived on while that one began: there are two.
    fn close_before(&mut self, id: &DeviceId, request: &RegisterRequest) -> Result<(), Broken> {
        let Some(device) = self
            .ledger
            .devices
            .get(id)
            .filter(|device| device.epoch != request.epoch)
        else {
            return Ok(());
        };
        let present = device.epoch;
        let leased = device.axis().is_some_and(|axis| axis.has_lease());
        let named = request.closes.as_ref().and_then(|closes| {
            let axis = device.epochs.get(&closes.epoch)?;
            Some((closes, axis.closed))
        });
        let second = named.is_some_and(|(closes, _)| closes.epoch != present);
        let settles = named.and_then(|(closes, closed)| (!closed).then_some(closes));
        if leased && settles.is_none_or(|closes| closes.epoch != present) {
            self.lapse(id, present)?;
        }
        if let Some(closes) = settles {
            self.close(id, closes.epoch, closes.total)?;
        }
        if second {
            let words = format!("a store of device {id} lived on while epoch {present} began");
            self.suspect(id, "second-store", &words)?;
            self.freeze(id, "second-store")?;
        }
        Ok(())
    }

    /// Charges an epoch up to its total, and ends it.
    fn close(&mut self, id: &DeviceId, epoch: Epoch, claimed: Octets) -> Result<(), Broken> {
        let found = self
            .ledger
            .devices
            .get(id)
            .and_then(|device| Some((device, device.epochs.get(&epoch)?)));
        let Some((device, axis)) = found else {
            return Ok(());
        };
        let charged = axis.charged;
        let total = claimed.max(charged);
        let zone = axis
            .last
            .as_ref()
            .map_or_else(ZoneId::home, |last| last.zone.clone());
        let (mut moves, from_segments) = self.payments(id, device, axis, total, &zone, 0)?;
        let (_, released) = axis.split(from_segments);
        // A package that pays out of what is available is not one whose reservation comes back: order does not matter.
        moves.extend(self.releases(&released)?);
        let cause = Cause::Closed(Closed {
            epoch,
            total,
            from_segments,
        });
        self.record(Subject::Device(id.clone()), cause, moves)?;
        if claimed < charged {
            let words = format!(
                "epoch {epoch} is closed at {claimed} octets, {charged} were charged: its store went back"
            );
            self.suspect(id, "store-went-back", &words)?;
        }
        self.pool_gained(id)
    }

    /// Commands of an ended epoch would never be applied: they are issued again in the new one.
    fn retell(&mut self, id: &DeviceId) -> Result<(), Broken> {
        let pending: Vec<(u64, Vec<u8>)> = self
            .ledger
            .devices
            .get(id)
            .map(|device| {
                device
                    .pending
                    .iter()
                    .map(|(number, pending)| (*number, pending.message.clone()))
                    .collect()
            })
            .unwrap_or_default();
        for (number, message) in pending {
            let outcome = Outcome::Superseded as u64;
            let cause = Cause::CommandSettled(CommandSettled { number, outcome });
            self.record(Subject::Device(id.clone()), cause, Vec::new())?;
            if let Ok(command) = codec::decode::<Command>(&message)
                && self.now < command.expires
            {
                self.tell(id, &command.body)?;
            }
        }
        Ok(())
    }

    pub(super) fn registration(
        &self,
        id: &DeviceId,
        request: &RegisterRequest,
        code: Code,
        retry: bool,
    ) -> RegisterAnswer {
        let device = self.ledger.devices.get(id).filter(|_| code.is_success());
        let axis = device.and_then(|device| device.epochs.get(&request.epoch));
        RegisterAnswer {
            epoch: request.epoch,
            boot: request.boot,
            code,
            now: self.now,
            sim: device
                .and_then(|device| self.ledger.sims.get(&device.iccid))
                .map(|sim| sim.profile.clone()),
            policy: device.map(|device| {
                device
                    .policy
                    .clone()
                    .unwrap_or_else(|| self.rules.policy.clone())
            }),
            retry_s: retry.then_some(self.rules.retry_s),
            mark: axis.map_or(Seq::ZERO, |axis| axis.mark),
            total: axis.map_or(Octets::ZERO, |axis| axis.charged),
        }
    }

    /// A device that is known: its serial does not change, and an epoch that was superseded stays closed.
    fn known_device(
        &self,
        id: &DeviceId,
        device: &Device,
        request: &RegisterRequest,
    ) -> Result<(), Denied> {
        if let Some(why) = self.ledger.estate.retired.get(id) {
            return Err(Denied {
                code: Code::SERVICE_DENIED,
                retry: true,
                reason: "decommissioned",
                detail: format!("device {id} serves no more: {why}"),
                two: false,
            });
        }
        if device.serial != request.serial {
            return Err(Denied {
                code: Code::SERVICE_DENIED,
                retry: false,
                reason: "second-serial",
                detail: format!("device {id} is registered with another serial number"),
                two: true,
            });
        }
        if device.epoch != request.epoch && device.epochs.contains_key(&request.epoch) {
            return Err(Denied {
                code: Code::EPOCH_SUPERSEDED,
                retry: false,
                reason: "superseded-epoch",
                detail: format!("device {id} has a newer epoch than {}", request.epoch),
                two: false,
            });
        }
        if device.epoch == request.epoch && request.boot < device.boot {
            return Err(Denied {
                // A store that was rolled back repeats its numbers: it has to begin a new epoch.
                code: Code::EPOCH_SUPERSEDED,
                retry: false,
                reason: "old-boot",
                detail: format!(
                    "device {id} has started {} times, not {}",
                    device.boot, request.boot
                ),
                two: false,
            });
        }
        if self.too_many_epochs(id, request) {
            return Err(Denied {
                // Two stores under one key supersede each other for ever, each time at the price of an entry.
                code: Code::SERVICE_DENIED,
                retry: true,
                reason: "too-many-epochs",
                detail: format!(
                    "device {id} began more than {} epochs in a day: a lost store each time, or two with one key",
                    self.rules.epochs_a_day
                ),
                two: true,
            });
        }
        Ok(())
    }
}
