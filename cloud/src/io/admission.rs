//! Admission: how often one sender may ask, and all of them together.
//!
//! Who is over the limit is told so (3004 and when to come back), and the refusal is counted; nothing is decided.
//! Only verified messages count, so nobody can use up another's share.

use std::num::NonZeroU32;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};
use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, FleetId, KeyId, Text};
use simquota_shared::message::{
    CreditAnswer, CreditRequest, FleetReply, RegisterAnswer, UsageAck, UsageBatch,
};
use simquota_shared::topic::{Down, Topic};
use simquota_shared::units::{Octets, Push, Seq, UnixMillis};

use super::verify::Said;
use crate::charging::{DeviceRequest, Outgoing, Seal};
use crate::ledger::Ledger;

/// How much may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages a second from one sender, in the long run.
    pub sender_per_s: NonZeroU32,
    /// Messages from one sender at once.
    pub sender_burst: NonZeroU32,
    /// Messages a second from all senders of one fleet.
    pub fleet_per_s: NonZeroU32,
    /// Messages a second from all senders.
    pub all_per_s: NonZeroU32,
    /// Senders that are kept in mind; beyond them only the limit for all holds.
    pub senders_max: usize,
}

/// Who sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Sender {
    Device(DeviceId),
    Person(String),
}

type Unchecked = NoOpMiddleware<Nanos>;
type Keyed<C> = RateLimiter<Sender, HashMapStateStore<Sender>, C, Unchecked>;
type Fleets<C> = RateLimiter<FleetId, HashMapStateStore<FleetId>, C, Unchecked>;
type Direct<C> = RateLimiter<NotKeyed, InMemoryState, C, Unchecked>;

/// Counts what comes in against [`Limits`].
pub struct Admission<C: Clock<Instant = Nanos>> {
    clock: C,
    senders_max: usize,
    senders: Keyed<C>,
    /// As many as there are fleets: their names come out of the ledger, not from outside.
    fleets: Fleets<C>,
    all: Direct<C>,
}

impl<C: Clock<Instant = Nanos> + Clone> Admission<C> {
    /// Starts with every sender's burst unused.
    pub fn new(limits: Limits, clock: C) -> Self {
        let sender = Quota::per_second(limits.sender_per_s).allow_burst(limits.sender_burst);
        let fleet = Quota::per_second(limits.fleet_per_s);
        let all = Quota::per_second(limits.all_per_s);
        Self {
            senders_max: limits.senders_max,
            senders: RateLimiter::hashmap_with_clock(sender, clock.clone()),
            fleets: RateLimiter::hashmap_with_clock(fleet, clock.clone()),
            all: RateLimiter::direct_with_clock(all, clock.clone()),
            clock,
        }
    }

    /// Lets a message of a fleet in, or says after how many seconds it may come again. The narrowest limit comes first,
    /// so that who is over their own takes nothing of what others share.
    ///
    /// # Errors
    /// The seconds, at least 1.
    pub fn admit(&self, said: &Said, fleet: Option<&FleetId>) -> Result<(), u64> {
        let sender = match said {
            Said::Device { id, .. } => Sender::Device(id.clone()),
            Said::Command { kid, .. } => Sender::Person(kid.name.clone()),
            Said::Event(_) | Said::Probe | Said::Nothing => return Ok(()),
        };
        // When too many senders are in mind only the limit for all holds, until idle ones are forgotten.
        if self.senders.len() < self.senders_max {
            self.senders
                .check_key(&sender)
                .map_err(|until| self.seconds(&until))?;
        }
        if let Some(fleet) = fleet {
            self.fleets
                .check_key(fleet)
                .map_err(|until| self.seconds(&until))?;
        }
        self.all.check().map_err(|until| self.seconds(&until))
    }

    /// Drops senders whose burst is whole again: they are as good as new ones. It walks over all senders, so it is
    /// called once a second and not for each message.
    pub fn forget_idle(&self) {
        self.senders.retain_recent();
        self.fleets.retain_recent();
    }

    fn seconds(&self, until: &NotUntil<Nanos>) -> u64 {
        let wait = until.earliest_possible().duration_since(self.clock.now());
        wait.as_u64().div_ceil(1_000_000_000).max(1)
    }
}

/// The answer to a message that was not admitted: the state as it is, nothing decided. Built after the decisions of
/// its batch, so that no mark goes back. `None` where the sender comes back by itself.
#[must_use]
pub fn busy(ledger: &Ledger, said: &Said, now: UnixMillis, retry_s: u64) -> Option<Outgoing> {
    match said {
        Said::Device { id, kid, request } => {
            let (down, payload) = busy_device(ledger, id, request, now, retry_s)?;
            Some(Outgoing {
                topic: Topic::Down(id.clone(), down),
                payload,
                retain: false,
                seal: Seal::Mac(kid.clone()),
            })
        }
        Said::Command {
            fleet,
            kid,
            command,
        } => {
            let reply = FleetReply {
                id: command.id.clone(),
                code: Code::TOO_BUSY,
                part: 0,
                last: true,
                result: serde_cbor::Value::Null,
                why: Some(Text::clipped(&format!(
                    "too-busy: send it again in {retry_s} s"
                ))),
            };
            Some(Outgoing {
                topic: reply_topic(fleet.as_ref(), kid)?,
                payload: codec::encode(&reply).ok()?,
                retain: false,
                seal: Seal::Mac(kid.clone()),
            })
        }
        Said::Event(_) | Said::Probe | Said::Nothing => None,
    }
}

fn reply_topic(fleet: Option<&FleetId>, kid: &Kid) -> Option<Topic> {
    let author: KeyId = kid.name.parse().ok()?;
    Some(match fleet {
        Some(fleet) => Topic::FleetReply(fleet.clone(), author),
        None => Topic::OpsReply(author),
    })
}

fn busy_device(
    ledger: &Ledger,
    id: &DeviceId,
    request: &DeviceRequest,
    now: UnixMillis,
    retry_s: u64,
) -> Option<(Down, Vec<u8>)> {
    let now = now.max(ledger.now);
    match request {
        DeviceRequest::Usage(batch) => {
            let ack = busy_usage(ledger, id, batch, now, retry_s);
            Some((Down::Usage, codec::encode(&ack).ok()?))
        }
        DeviceRequest::Credit(request) => {
            let answer = busy_credit(ledger, id, request, now, retry_s);
            Some((Down::Credit, codec::encode(&answer).ok()?))
        }
        DeviceRequest::Register(request) => {
            let answer = RegisterAnswer {
                epoch: request.epoch,
                boot: request.boot,
                code: Code::TOO_BUSY,
                now,
                sim: None,
                policy: None,
                retry_s: Some(retry_s),
                mark: simquota_shared::units::Seq::ZERO,
                total: simquota_shared::units::Octets::ZERO,
            };
            Some((Down::Register, codec::encode(&answer).ok()?))
        }
        // Nobody waits for an answer to these; a command that stays unacknowledged is sent again.
        DeviceRequest::Ack(_) | DeviceRequest::Status(_) => None,
    }
}

fn busy_usage(
    ledger: &Ledger,
    id: &DeviceId,
    batch: &UsageBatch,
    now: UnixMillis,
    retry_s: u64,
) -> UsageAck {
    let axis = ledger
        .devices
        .get(id)
        .and_then(|device| device.epochs.get(&batch.epoch));
    UsageAck {
        epoch: batch.epoch,
        code: Code::TOO_BUSY,
        mark: axis.map_or(Seq::ZERO, |axis| axis.mark),
        total: axis.map_or(Octets::ZERO, |axis| axis.charged),
        first: batch.first,
        retry_s: Some(retry_s),
        now,
    }
}

fn busy_credit(
    ledger: &Ledger,
    id: &DeviceId,
    request: &CreditRequest,
    now: UnixMillis,
    retry_s: u64,
) -> CreditAnswer {
    let axis = ledger
        .devices
        .get(id)
        .and_then(|device| device.epochs.get(&request.epoch));
    let ceiling = axis.map_or(Octets::ZERO, |axis| axis.ceiling);
    CreditAnswer {
        epoch: request.epoch,
        number: request.number,
        push: Push::ZERO,
        code: Code::TOO_BUSY,
        ceiling,
        stop: ceiling,
        decided: now,
        valid_until: None,
        renew_below: Octets::ZERO,
        final_unit: None,
        silence_s: 0,
        hold_s: 0,
        balance: Octets::ZERO,
        retry_s: Some(retry_s),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;
    use simquota_shared::message::Status;
    use simquota_shared::units::{Boot, Epoch, RequestNumber};

    use super::*;

    fn limits(all_per_s: u32, senders_max: usize) -> Limits {
        Limits {
            sender_per_s: NonZeroU32::new(1).unwrap(),
            sender_burst: NonZeroU32::new(3).unwrap(),
            fleet_per_s: NonZeroU32::new(4).unwrap(),
            all_per_s: NonZeroU32::new(all_per_s).unwrap(),
            senders_max,
        }
    }

    fn said(device: &str) -> Said {
        Said::Device {
            id: device.parse().unwrap(),
            kid: Kid::first(&"batch"),
            request: DeviceRequest::Status(Status {
                epoch: Epoch(1),
                boot: Boot(1),
                connection: 1,
                online: true,
                channel: None,
                agent: Text::clipped("a"),
                backlog: 0,
            }),
        }
    }

    #[test]
    fn one_sender_has_its_burst_then_its_rate_and_others_are_not_touched() {
        let clock = FakeRelativeClock::default();
        let admission = Admission::new(limits(1000, 10), clock.clone());
        for _ in 0..3 {
            assert_eq!(admission.admit(&said("a"), None), Ok(()));
        }
        assert_eq!(admission.admit(&said("a"), None), Err(1));
        assert_eq!(admission.admit(&said("b"), None), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(admission.admit(&said("a"), None), Ok(()));
        assert_eq!(admission.admit(&said("a"), None), Err(1));
    }

    #[test]
    fn a_fleet_has_a_limit_of_its_own_and_another_fleet_is_not_touched() {
        let clock = FakeRelativeClock::default();
        let admission = Admission::new(limits(1000, 100), clock.clone());
        let (buses, kiosks): (FleetId, FleetId) =
            ("buses".parse().unwrap(), "kiosks".parse().unwrap());
        for device in ["a", "b", "c", "d"] {
            assert_eq!(
                admission.admit(&said(device), Some(&buses)),
                Ok(()),
                "{device}"
            );
        }
        assert_eq!(admission.admit(&said("e"), Some(&buses)), Err(1));
        assert_eq!(admission.admit(&said("f"), Some(&kiosks)), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(admission.admit(&said("e"), Some(&buses)), Ok(()));
    }

    #[test]
    fn all_together_have_a_limit_and_the_map_of_senders_is_bounded() {
        let clock = FakeRelativeClock::default();
        let admission = Admission::new(limits(5, 2), clock.clone());
        for device in ["a", "b", "c", "c", "c"] {
            assert_eq!(admission.admit(&said(device), None), Ok(()), "{device}");
            assert!(admission.senders.len() <= 2);
        }
        // "c" is not kept in mind, so its fourth is only stopped by the limit for all.
        assert_eq!(admission.admit(&said("c"), None), Err(1));
        clock.advance(Duration::from_secs(10));
        admission.forget_idle();
        assert!(admission.senders.is_empty());
    }

    #[test]
    fn who_is_not_admitted_is_told_when_to_come_back() {
        let request = CreditRequest {
            epoch: Epoch(7),
            number: RequestNumber(3),
            kind: simquota_shared::message::Kind::Update,
            used: Octets(5),
            want: Octets(5),
            reason: simquota_shared::message::Reason::THRESHOLD,
            zone: simquota_shared::ids::ZoneId::home(),
            held: None,
        };
        let said = Said::Device {
            id: "a".parse().unwrap(),
            kid: Kid::first(&"batch"),
            request: DeviceRequest::Credit(request),
        };
        let outgoing = busy(&Ledger::default(), &said, UnixMillis(9), 4).unwrap();
        assert!(!outgoing.retain);
        assert_eq!(outgoing.topic.to_string(), "csim/v1/d/a/down/credit");
        let answer: CreditAnswer = codec::decode(&outgoing.payload).unwrap();
        assert_eq!(answer.code, Code::TOO_BUSY);
        assert_eq!(answer.retry_s, Some(4));
        assert_eq!((answer.epoch, answer.number), (Epoch(7), RequestNumber(3)));
    }
}
