//! The agent's notices as lines of the log.

use simquota_shared::units::{Octets, human};
use tracing::{error, info, warn};

use crate::agent::{Disagreement, Notice};

pub(super) fn tell(notice: &Notice) {
    match notice {
        Notice::Registered => info!("registered"),
        Notice::RegistrationRefused { code, retry_s } => {
            warn!(%code, retry_s, "registration was refused");
        }
        Notice::SimBound(sim) => {
            info!(iccid = %sim.iccid, operator = %sim.operator, "SIM was bound");
        }
        Notice::PolicySet(version) => info!(version, "policy was set"),
        Notice::Requested {
            number,
            kind,
            reason,
            used,
            returned,
        } => {
            info!(%number, ?kind, reason = reason.name(), %used, returned, "quota was requested");
        }
        Notice::Answered {
            number,
            push,
            code,
            ceiling,
            balance,
        } => {
            info!(%number, %push, %code, %ceiling, balance = human(*balance), "quota was answered");
        }
        Notice::NotDecided { number, code } => warn!(%number, %code, "request was not decided"),
        Notice::Abandoned(number) => warn!(%number, "request was abandoned unanswered"),
        Notice::CeilingReached { ceiling, used } => info!(%ceiling, %used, "ceiling was reached"),
        Notice::FinalUnit(action) => info!(?action, "the last grant is used up"),
        Notice::GrantExpired => info!("grant expired"),
        Notice::ConnectBudget(Octets(until)) => {
            warn!(until, "allowance is used up, one connect budget was opened");
        }
        Notice::CounterReset => warn!("counter began anew"),
        Notice::ReadingRefused => warn!("a reading cannot be true and was left out"),
        Notice::ClockStepped(by_ms) => warn!(by_ms, "the wall clock was stepped"),
        Notice::ClockSet(to_ms) => info!(to_ms, "the cloud's time was taken over"),
        Notice::WentBack(mark) => info!(%mark, "outbox went back to the mark"),
        Notice::MarkFell { to, from } => warn!(%to, %from, "the cloud's mark fell"),
        Notice::CommandSettled { id, outcome } => info!(%id, ?outcome, "command was settled"),
        Notice::KeyGeneration(generation) => {
            warn!(
                generation,
                "another key generation was ordered; its line must be put into the key file"
            );
        }
        Notice::NewEpochNeeded(why) => {
            let why = reason(*why);
            warn!(why, "this epoch cannot go on, a new one follows");
        }
        Notice::Unwritable(what) => error!(what, "a message could not be written (report this)"),
    }
}

const fn reason(why: Disagreement) -> &'static str {
    match why {
        Disagreement::Superseded => "the cloud has a newer epoch in force",
        Disagreement::AckAhead => "the cloud has samples that this store never held",
        Disagreement::TotalDiffers => "the cloud's total at the mark is another one",
        Disagreement::RowsGone => "the cloud needs samples that are no longer stored",
        Disagreement::DamagedTwice => "the cloud called the same batch damaged twice",
        Disagreement::NumberReused => "the cloud knows request numbers that this store never used",
    }
}
