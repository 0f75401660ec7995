//! Charging: what to do with a request. Pure: time comes in as an argument, nothing is awaited.
//!
//! A [`Turn`] is one batch's work on the ledger. Each request is decided and applied in memory at once, so that
//! several of one device in a batch see each other's effect; the entries that this made, and the messages that
//! may go out once they are durable, are collected. The shell commits [`Turn::entries`], and only then sends
//! [`Turn::outgoing`] (DESIGN section 3: what is promised is durable before anyone hears it).
//!
//! A refusal is a value ([`Verdict::Refused`]), a failure is an error ([`Broken`]): after a failure the ledger is
//! thrown away and reloaded.
//!
//! | room | what is decided there |
//! |---|---|
//! | [`register`](self) | S11, S12: a device, its epoch, its boot, its SIM |
//! | `credit` | rules R1-R7: release, reserve, answer |
//! | `size` | how much is granted |
//! | `shelf` | which packages pay |
//! | `usage` | debits by position, overrun, late usage, debt |
//! | `late` | what of a debit came late, and after what |
//! | `room` | what limits of the day and the month leave |
//! | `purchase` | packages bought: debt, uncovered stretches, pushes |
//! | `prelude` | what stands before a package's use: its begin, permitted overage |
//! | `alarm` | thresholds and limits crossed, rules that buy because of them |
//! | `plan`, `calendar` | what is due at a time in a place |
//! | `sweep` | leases that run out, packages that end |
//! | `access` | who is believed no longer |
//! | `suspect` | what calls for a look at a device |
//! | `command` | what managers and admins ask for |

mod access;
mod alarm;
mod calendar;
mod command;
mod credit;
mod late;
mod plan;
mod prelude;
mod purchase;
mod query;
mod register;
mod room;
mod rules;
mod shelf;
mod size;
mod suspect;
mod sweep;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::BTreeMap;

use simquota_shared::codec::{self, CodecError};
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::message::{
    Ack, CreditRequest, FleetCommand, RegisterRequest, Status, UsageBatch,
};
use simquota_shared::topic::{Down, Topic};
use simquota_shared::units::{Epoch, UnixMillis};

use crate::ledger::account::Move;
use crate::ledger::entry::{Cause, Entry, Subject};
use crate::ledger::{Broken, Ledger};

pub use command::{CommandError, SIMS_MAX, Scope, named_entry};
pub use query::{Address, Query, live_device};
pub(crate) use query::{map as value_map, number, optional, text};
pub use rules::Rules;

/// Under what a message goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seal {
    /// COSE_Mac0 under the key of the one who reads it: a device's or a person's.
    Mac(Kid),
    /// COSE_Sign1 under the node's key: many read it.
    Signed,
}

/// A message that may be sent once the turn's entries are durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Where.
    pub topic: Topic,
    /// The payload, not sealed yet.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// Under what it is sealed.
    pub seal: Seal,
}

/// Why a message is not acted upon. It goes to `ops/rejected` and is counted by its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A short name.
    pub reason: &'static str,
    /// In words.
    pub detail: String,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Decided; what there is to say is in the turn.
    Done,
    /// Not acted upon; there may be an answer in the turn all the same.
    Refused(Refusal),
    /// To be answered out of the journal, by the shell.
    Query(Query),
}

impl Verdict {
    pub(crate) fn refused(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::Refused(Refusal {
            reason,
            detail: detail.into(),
        })
    }
}

/// A device's message, verified and decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceRequest {
    /// `up/register`
    Register(RegisterRequest),
    /// `up/usage`
    Usage(UsageBatch),
    /// `up/credit`
    Credit(CreditRequest),
    /// `up/ack`
    Ack(Ack),
    /// `status`
    Status(Status),
}

impl DeviceRequest {
    /// Of which life of its store the device speaks.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        match self {
            Self::Register(request) => request.epoch,
            Self::Usage(batch) => batch.epoch,
            Self::Credit(request) => request.epoch,
            Self::Ack(ack) => ack.epoch,
            Self::Status(status) => status.epoch,
        }
    }
}

/// One batch's work on the ledger.
#[derive(Debug)]
pub struct Turn<'a> {
    ledger: &'a mut Ledger,
    rules: &'a Rules,
    now: UnixMillis,
    /// Where the acknowledgement of a device's epoch stands among the outgoing messages.
    acknowledged: BTreeMap<(DeviceId, Epoch), usize>,
    /// The entry that the next command names, read from the journal.
    named: Option<Entry>,
    /// What must be durable before anything is sent.
    pub entries: Vec<Entry>,
    /// What may be sent then, in this order.
    pub outgoing: Vec<Outgoing>,
}

impl<'a> Turn<'a> {
    /// Begins a batch. The cloud's now is never earlier than its last entry.
    pub fn new(ledger: &'a mut Ledger, rules: &'a Rules, clock: UnixMillis) -> Self {
        let now = clock.max(ledger.now);
        Self {
            ledger,
            rules,
            now,
            acknowledged: BTreeMap::new(),
            named: None,
            entries: Vec::new(),
            outgoing: Vec::new(),
        }
    }

    /// Sets the time for the requests that follow; it never goes back.
    pub fn at(&mut self, clock: UnixMillis) {
        self.now = self.now.max(clock);
    }

    /// The fleet of a device that is registered.
    #[must_use]
    pub fn fleet_of(&self, id: &DeviceId) -> Option<&FleetId> {
        self.ledger.devices.get(id).map(|device| &device.fleet)
    }

    /// Decides a device's message that was verified under `kid`.
    ///
    /// # Errors
    /// [`Broken`] when the ledger must be reloaded.
    pub fn device(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        request: DeviceRequest,
    ) -> Result<Verdict, Broken> {
        if let Some(device) = self.ledger.devices.get(id)
            && device.enrolment.as_str() != kid.name
        {
            return Ok(Verdict::refused(
                "foreign-key",
                format!("device {id} belongs to another enrolment key than {kid}"),
            ));
        }
        if let Some(refused) = self.not_believed(id, kid, &request)? {
            return Ok(refused);
        }
        // Whatever a device says shows that it can hear: what it has not acknowledged is sent again.
        if !matches!(request, DeviceRequest::Ack(_)) {
            self.resend_commands(id, kid);
        }
        let verdict = match request {
            DeviceRequest::Register(request) => self.register(id, kid, &request),
            DeviceRequest::Usage(batch) => self.usage(id, kid, &batch),
            DeviceRequest::Credit(request) => self.credit(id, kid, &request),
            DeviceRequest::Ack(ack) => self.command_ack(id, &ack),
            DeviceRequest::Status(status) => self.status(id, kid, &status),
        }?;
        if let Verdict::Refused(Refusal { reason, detail }) = &verdict {
            self.suspect_of(id, reason, detail)?;
        }
        self.ring()?;
        Ok(verdict)
    }

    /// Shows the entry that the next command names ([`named_entry`]), as the journal has it.
    pub fn show(&mut self, entry: Option<Entry>) {
        self.named = entry;
    }

    /// Carries out a command that was verified under `kid`, on a fleet's topic or (`None`) on `ops`.
    ///
    /// # Errors
    /// [`Broken`] when the ledger must be reloaded.
    pub fn command(
        &mut self,
        fleet: Option<&FleetId>,
        kid: &Kid,
        command: &FleetCommand,
    ) -> Result<Verdict, Broken> {
        let verdict = self.carry_out(fleet, kid, command)?;
        self.named = None;
        self.ring()?;
        Ok(verdict)
    }

    /// Lets leases run out and packages end; at most `most` of each. True when more is due.
    ///
    /// # Errors
    /// [`Broken`] when the ledger must be reloaded.
    pub fn sweep(&mut self, most: usize) -> Result<bool, Broken> {
        let more = self.sweep_due(most)?;
        self.ring()?;
        Ok(more)
    }

    fn record(&mut self, subject: Subject, cause: Cause, moves: Vec<Move>) -> Result<(), Broken> {
        if !self.ledger.index.special.is_empty() {
            self.prelude(&moves)?;
        }
        self.append(subject, cause, moves)
    }

    fn append(&mut self, subject: Subject, cause: Cause, moves: Vec<Move>) -> Result<(), Broken> {
        let entry = self.ledger.record(self.now, subject, cause, moves)?;
        self.entries.push(entry);
        Ok(())
    }

    fn say(&mut self, id: &DeviceId, kid: &Kid, down: Down, payload: Vec<u8>, retain: bool) {
        self.outgoing.push(Outgoing {
            topic: Topic::Down(id.clone(), down),
            payload,
            retain,
            seal: Seal::Mac(kid.clone()),
        });
    }
}

fn encoded<T: serde::Serialize>(message: &T) -> Result<Vec<u8>, Broken> {
    codec::encode(message).map_err(|error: CodecError| {
        Broken::Encode(simquota_shared::units::EntryNumber::ZERO, error.to_string())
    })
}
