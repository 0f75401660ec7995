//! What survives a power cut: one state row, written whole in every commit, and the rows of the outbox.
//!
//! Not here on purpose: when a request was first sent and until when a grant is valid. A boot always cuts and asks
//! anew, so neither is kept over one (DESIGN section 11, number 18).

use simquota_shared::code::Code;
use simquota_shared::codec::{self, CodecError};
use simquota_shared::ids::{CommandId, Iccid, Text, ZoneId};
use simquota_shared::message::usage::flag;
use simquota_shared::message::{Closes, CreditRequest, FinalAction, Held, Outcome, Policy};
use simquota_shared::units::{Boot, Epoch, Octets, Push, RequestNumber, Seq};

/// The version of the state row. A field may be appended under the same number only together with a reader for rows
/// that lack it.
pub const STATE_VERSION: u64 = 2;

/// The most outcomes of commands that are remembered. An older repeat is caught by its number if it sets state, and
/// does no harm if it does not.
pub const OUTCOMES_MAX: usize = 64;

simquota_shared::wire! {
    /// Which counter a reading is of (DESIGN section 11, number 8). A new identity counts from 0.
    #[derive(Eq)]
    pub struct Identity {
        /// The kernel's boot id.
        pub boot_id: Text,
        /// Inode number of the network namespace.
        pub netns: u64,
        /// Interface index.
        pub index: u64,
        /// Interface name.
        pub name: Text,
    }
}

simquota_shared::wire! {
    /// Where the meter stood at the last row: what the counter shows beyond it is not accounted for yet.
    #[derive(Eq)]
    pub struct Position {
        /// The counter.
        pub identity: Identity,
        /// Octets sent.
        pub up: u64,
        /// Octets received.
        pub down: u64,
        /// The SIM was left here: what this counter counts next is another network's.
        pub left: bool,
    }
}

simquota_shared::wire! {
    /// Number and push of an answer; answers are ordered by the pair (rule R7).
    #[derive(Copy, Eq, PartialOrd, Ord)]
    pub struct AnswerKey {
        /// Number of the request.
        pub number: RequestNumber,
        /// 0 for the answer, 1, 2, … for pushes.
        pub push: Push,
    }
}

simquota_shared::wire! {
    /// The credit half of the state row.
    pub struct CreditState {
        /// The number of the last request made.
        pub number: RequestNumber,
        /// The request that waits for its answer, whole (rule R2).
        pub outstanding: Option<CreditRequest>,
        /// The position up to which traffic may go.
        pub ceiling: Octets,
        /// The position up to which control traffic may go.
        pub stop: Octets,
        /// The latest accepted answer.
        pub answered: Option<AnswerKey>,
        /// Answers to numbers below this one change nothing: the grant they speak of was given up (rule R2).
        pub floor: RequestNumber,
        /// The grant that was cut and whose return is not confirmed yet (DESIGN section 11, number 21).
        pub held: Option<Held>,
        /// Ask again when this much or less remains.
        pub renew_below: Octets,
        /// What happens at the ceiling if this was the last grant.
        pub final_unit: Option<FinalAction>,
        /// Give the remainder back after this many seconds without traffic; 0: never.
        pub hold_s: u64,
        /// How long traffic may go on when no answer comes; 0: not at all.
        pub silence_s: u64,
        /// What is left in the packages, as last told.
        pub balance: Octets,
        /// The code of the latest accepted answer.
        pub code: Option<Code>,
        /// The epoch's one bootstrap allowance was set.
        pub bootstrapped: bool,
    }
}

simquota_shared::wire! {
    /// The state row.
    pub struct Durable {
        /// [`STATE_VERSION`].
        pub version: u64,
        /// The life of this store.
        pub epoch: Epoch,
        /// How often the agent was started in it.
        pub boot: Boot,
        /// The last end was an orderly one.
        pub clean: bool,
        /// The epoch before, told at each registration.
        pub closes: Option<Closes>,
        /// The number of the next row.
        pub next_seq: Seq,
        /// Every row up to this number is in the ledger.
        pub acked: Seq,
        /// The used total there.
        pub acked_total: Octets,
        /// The used total after the last row.
        pub used: Octets,
        /// The meter's position after the last row.
        pub position: Option<Position>,
        /// The zone of the next row.
        pub zone: ZoneId,
        /// The SIM of the next row.
        pub iccid: Option<Iccid>,
        /// The policy in force.
        pub policy: Policy,
        /// The credit state.
        pub credit: CreditState,
        /// Suspended by command.
        pub suspended: bool,
        /// Number of the last applied command that sets state.
        pub command_number: u64,
        /// The latest commands and what came of them, oldest first.
        pub outcomes: Vec<(CommandId, Outcome)>,
        /// The generation of the key to seal with.
        pub key_generation: u64,
        /// The position up to which traffic may go without another commit.
        pub armed: Octets,
        /// Octets to declare with the next row: a power cut may have taken them.
        pub unsure: u64,
    }
}

simquota_shared::wire! {
    /// A row of the outbox: one sample, or several merged ones.
    #[derive(Eq)]
    pub struct Row {
        /// The number of its first sample.
        pub seq: Seq,
        /// How many samples it stands for.
        pub count: u64,
        /// Its end: Unix seconds with a clock, else seconds since the agent's start.
        pub end: u64,
        /// Whether `end` is Unix time.
        pub clock: bool,
        /// The clock stepped before this row: it begins a batch.
        pub apart: bool,
        /// The agent's start in which it was metered.
        pub boot: Boot,
        /// The SIM; none before the first registration.
        pub iccid: Option<Iccid>,
        /// The zone.
        pub zone: ZoneId,
        /// IP octets sent, the agent's own included.
        pub up: u64,
        /// IP octets received, the agent's own included.
        pub down: u64,
        /// How many of them were the agent's own.
        pub own: u64,
        /// Bits of [`flag`].
        pub flags: u64,
        /// Octets declared as possibly used and not metered.
        pub unsure: u64,
        /// The used total after it.
        pub total: Octets,
    }
}

/// A stored row that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurableError {
    /// Not what was written.
    #[error(
        "the store's {row} row is damaged ({source}): move the store away and start again, a new epoch begins"
    )]
    Damaged {
        /// `state` or `sample`.
        row: &'static str,
        /// What is wrong.
        source: CodecError,
    },
    /// Written by another version of this program.
    #[error(
        "the store's state row has version {0}, this agent reads {STATE_VERSION}: start the agent that wrote it"
    )]
    Version(u64),
}

impl Durable {
    /// The state before the first start of an epoch.
    #[must_use]
    pub fn fresh(epoch: Epoch, closes: Option<Closes>, zone: ZoneId) -> Self {
        Self {
            version: STATE_VERSION,
            epoch,
            boot: Boot::ZERO,
            clean: true,
            closes,
            next_seq: Seq(1),
            acked: Seq::ZERO,
            acked_total: Octets::ZERO,
            used: Octets::ZERO,
            position: None,
            zone,
            iccid: None,
            policy: Policy::DEFAULT,
            credit: CreditState {
                number: RequestNumber::ZERO,
                outstanding: None,
                ceiling: Octets::ZERO,
                stop: Octets::ZERO,
                answered: None,
                floor: RequestNumber(1),
                held: None,
                renew_below: Octets::ZERO,
                final_unit: None,
                hold_s: 0,
                silence_s: 0,
                balance: Octets::ZERO,
                code: None,
                bootstrapped: false,
            },
            suspended: false,
            command_number: 0,
            outcomes: Vec::new(),
            key_generation: 0,
            armed: Octets::ZERO,
            unsure: 0,
        }
    }

    /// The number of the last row, 0 when there is none yet.
    #[must_use]
    pub const fn last_seq(&self) -> Seq {
        Seq(self.next_seq.beyond(Seq(1)))
    }

    /// How many samples the ledger has not acknowledged.
    #[must_use]
    pub const fn backlog(&self) -> u64 {
        self.last_seq().beyond(self.acked)
    }

    /// The octets to write.
    ///
    /// # Errors
    /// [`CodecError::Encode`]; no value of this type has one.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self)
    }

    /// Reads a state row.
    ///
    /// # Errors
    /// [`DurableError`] for anything that [`encode`](Self::encode) of this version did not write.
    pub fn decode(octets: &[u8]) -> Result<Self, DurableError> {
        let damaged = |source| DurableError::Damaged {
            row: "state",
            source,
        };
        let (version,): (u64,) = codec::decode::<VersionOnly>(octets)
            .map(|row| (row.version,))
            .map_err(damaged)?;
        match version {
            STATE_VERSION => codec::decode(octets).map_err(damaged),
            other => Err(DurableError::Version(other)),
        }
    }
}

simquota_shared::wire! {
    /// The beginning of every state row, of whatever version.
    pub struct VersionOnly {
        /// The version.
        pub version: u64,
    }
}

impl Row {
    /// The number of its last sample.
    #[must_use]
    pub const fn last(&self) -> Seq {
        Seq(self.seq.0.saturating_add(self.count.saturating_sub(1)))
    }

    /// Octets that are not the agent's own.
    #[must_use]
    pub const fn foreign(&self) -> u64 {
        // For a distance, not a balance: `own` is part of `up + down`.
        self.up.saturating_add(self.down).saturating_sub(self.own)
    }

    /// This row and the one after it as one, with all sums kept; `None` when they must stay apart.
    ///
    /// The store merges old rows under pressure, it never discards them.
    #[must_use]
    pub fn merged(&self, next: &Self) -> Option<Self> {
        let fits = self.last().next() == Some(next.seq)
            && self.boot == next.boot
            && self.iccid == next.iccid
            && self.zone == next.zone
            && self.clock == next.clock
            && !next.apart
            && self.flags & flag::OVERRUN == next.flags & flag::OVERRUN
            && self.flags & (flag::SWITCH | flag::SHUTDOWN) == 0;
        if !fits {
            return None;
        }
        Some(Self {
            seq: self.seq,
            count: self.count.checked_add(next.count)?,
            apart: self.apart,
            up: self.up.checked_add(next.up)?,
            down: self.down.checked_add(next.down)?,
            own: self.own.checked_add(next.own)?,
            flags: self.flags | next.flags,
            unsure: self.unsure.checked_add(next.unsure)?,
            ..next.clone()
        })
    }

    /// The octets to write.
    ///
    /// # Errors
    /// [`CodecError::Encode`]; no value of this type has one.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self)
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`DurableError::Damaged`] for anything that [`encode`](Self::encode) did not write.
    pub fn decode(octets: &[u8]) -> Result<Self, DurableError> {
        codec::decode(octets).map_err(|source| DurableError::Damaged {
            row: "sample",
            source,
        })
    }
}
