//! How far traffic may go: the state of the gate, and which way a change goes.
//!
//! Lowering comes before a commit, raising after it. A change that does both is done in both places.

use simquota_shared::message::FinalAction;
use simquota_shared::units::Octets;

/// The gate. Both limits are positions on the used-total axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateState {
    /// Whether traffic other than the agent's own may pass, up to `ceiling`.
    pub open: bool,
    /// Where traffic stops.
    pub ceiling: Octets,
    /// Where the agent's own traffic and the allow-list stop as well.
    pub stop: Octets,
    /// Where traffic stops before the ceiling, because no more is durably armed; the largest number without windows.
    pub armed: Octets,
    /// Nothing more is to be expected: flows that met the gate are ended, not held up.
    pub ended: bool,
    /// What applies beyond the ceiling, once the last grant is used up.
    pub final_unit: Option<FinalAction>,
}

impl GateState {
    /// Shut for traffic, with the agent's own allowed up to `stop`.
    #[must_use]
    pub const fn shut(ceiling: Octets, stop: Octets) -> Self {
        Self {
            open: false,
            ceiling,
            stop,
            armed: Octets(u64::MAX),
            ended: false,
            final_unit: None,
        }
    }

    /// What both `self` and `other` allow.
    #[must_use]
    pub fn tighter(&self, other: &Self) -> Self {
        Self {
            open: self.open && other.open,
            ceiling: self.ceiling.min(other.ceiling),
            stop: self.stop.min(other.stop),
            armed: self.armed.min(other.armed),
            ended: self.ended && other.ended,
            final_unit: match self.final_unit == other.final_unit {
                true => self.final_unit.clone(),
                false => None,
            },
        }
    }
}
