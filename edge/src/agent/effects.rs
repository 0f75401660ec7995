//! What the agent wants done, and in which order (see the contract in [the module's page](super)).

use simquota_shared::code::Code;
use simquota_shared::ids::CommandId;
use simquota_shared::message::{FinalAction, Kind, Outcome, Reason, SimProfile};
use simquota_shared::units::{Octets, Push, RequestNumber, Seq};

use super::durable::{Durable, Row};
use super::gate::GateState;

/// The outcome of a step.
///
/// When `read` is set, nothing but `lower` and `wake_at_ms` is: everything else waits for the reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// First: make the gate this tight.
    pub lower: Option<GateState>,
    /// Second: read the meter and step again at once with the reading.
    pub read: bool,
    /// Third: commit this, durably and as one.
    pub store: Option<Commit>,
    /// Fourth: make the gate this wide.
    pub raise: Option<GateState>,
    /// Fifth: publish these, in this order.
    pub publish: Vec<Outgoing>,
    /// Sixth: load rows and step again with them.
    pub load: Option<Load>,
    /// Facts for the log and the hooks.
    pub notices: Vec<Notice>,
    /// Step with [`Tick`](super::Input::Tick) at this time on the monotonic clock, if nothing else comes before.
    pub wake_at_ms: Option<u64>,
    /// The epoch has ended: begin another one from [`Agent::successor`](super::Agent::successor), with the rows of
    /// this one dropped (their octets are in `closes`).
    pub new_epoch: bool,
    /// The agent has ended in order.
    pub done: bool,
}

/// One atomic, durable write. Rows up to `state.acked` may be deleted after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// The whole state row.
    pub state: Durable,
    /// New rows.
    pub rows: Vec<Row>,
}

/// Rows wanted back from the store: those whose last number is `from` or more, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The first number wanted. A merged row that contains it is included.
    pub from: Seq,
    /// At most so many.
    pub rows_max: usize,
}

/// Where a message goes. The order is the order of publishing within a step: newest credit state before backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Up {
    /// `d/{device}/status`
    Status,
    /// `d/{device}/up/register`
    Register,
    /// `d/{device}/up/ack`
    Ack,
    /// `d/{device}/up/credit`
    Credit,
    /// `d/{device}/up/usage`
    Usage,
}

/// A message to publish, QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its topic.
    pub up: Up,
    /// CBOR, not yet sealed.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it.
    pub retain: bool,
}

/// Why an epoch ends (DESIGN section 4, "When the two sides disagree").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disagreement {
    /// 5003: the cloud has a newer epoch in force.
    Superseded,
    /// The cloud acknowledged samples that this store never held: the flash was rolled back.
    AckAhead,
    /// The total at the mark is not ours.
    TotalDiffers,
    /// The cloud needs samples that are no longer in the store.
    RowsGone,
    /// The same batch was called damaged twice.
    DamagedTwice,
    /// 5007, or an answer to a number that was not sent: the flash was rolled back.
    NumberReused,
}

/// A fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The cloud accepted the registration of this start.
    Registered,
    /// It did not; asked again later.
    RegistrationRefused {
        /// Its code.
        code: Code,
        /// When it is asked again, in seconds.
        retry_s: u64,
    },
    /// This SIM profile is for the modem.
    SimBound(SimProfile),
    /// A policy of this version is in force.
    PolicySet(u64),
    /// A request was made; it is durable.
    Requested {
        /// Its number.
        number: RequestNumber,
        /// Its kind.
        kind: Kind,
        /// Why.
        reason: Reason,
        /// The used total.
        used: Octets,
        /// The unused octets of an earlier grant that it gives back (S21, S22).
        returned: u64,
    },
    /// An answer or a push was accepted.
    Answered {
        /// Number of the request.
        number: RequestNumber,
        /// 0 for an answer.
        push: Push,
        /// 2001, 4010 or 4012.
        code: Code,
        /// The ceiling now.
        ceiling: Octets,
        /// What is left in the packages.
        balance: Octets,
    },
    /// The cloud answered without deciding; the request stays.
    NotDecided {
        /// Number of the request.
        number: RequestNumber,
        /// Why not.
        code: Code,
    },
    /// A request found no answer within its validity.
    Abandoned(RequestNumber),
    /// The grant is used up (S43).
    CeilingReached {
        /// The ceiling.
        ceiling: Octets,
        /// The used total.
        used: Octets,
    },
    /// The grant that was used up was the last one; this applies now.
    FinalUnit(FinalAction),
    /// The grant's validity ended with octets left or not.
    GrantExpired,
    /// Everything at the second stop; the agent may use one connect budget up to this position.
    ConnectBudget(Octets),
    /// The counter began anew.
    CounterReset,
    /// A reading can't be true and was left out.
    ReadingRefused,
    /// The wall clock jumped by this many milliseconds.
    ClockStepped(i64),
    /// The cloud's time was taken over (Unix milliseconds).
    ClockSet(u64),
    /// The outbox went back to this mark and sends again from there.
    WentBack(Seq),
    /// The cloud's mark is below ours for good: it was restored from an older backup.
    MarkFell {
        /// Its mark.
        to: Seq,
        /// Ours.
        from: Seq,
    },
    /// A command was settled.
    CommandSettled {
        /// Its id.
        id: CommandId,
        /// What came of it.
        outcome: Outcome,
    },
    /// Seal with the key of this generation from now on.
    KeyGeneration(u64),
    /// This epoch can't go on; the gate is shut until the next one begins.
    NewEpochNeeded(Disagreement),
    /// A message could not be written: a defect of ours.
    Unwritable(&'static str),
}
