//! What operators watch: the node's status, figures, refused messages. All of it is signed.

use std::collections::BTreeMap;

use simquota_shared::codec;
use simquota_shared::ids::{NodeId, Text};
use simquota_shared::message::ops::{Blob, REJECTED_COPY_MAX};
use simquota_shared::message::{NodeStatus, Rejected, Statistics};
use simquota_shared::topic::Topic;
use simquota_shared::units::{EntryNumber, UnixMillis};

use crate::charging::{Outgoing, Refusal, Seal};

/// Figures since the service started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) received: u64,
    pub(super) rejected: u64,
    pub(super) decided: u64,
}

/// Counts, and writes what operators watch.
pub(super) struct Operators {
    node: NodeId,
    pub(super) figures: Figures,
    reasons: BTreeMap<&'static str, u64>,
    /// Refusals that may still be published in this second.
    left: u32,
    rejected_per_s: u32,
    logged: u64,
}

impl Operators {
    pub(super) fn new(node: NodeId, rejected_per_s: u32) -> Self {
        Self {
            node,
            figures: Figures::default(),
            reasons: BTreeMap::new(),
            left: rejected_per_s,
            rejected_per_s,
            logged: 0,
        }
    }

    /// A second has begun.
    pub(super) fn second(&mut self) {
        self.left = self.rejected_per_s;
    }

    /// Counts a refusal. The message about it is for `ops/rejected`; none when there were too many this second.
    pub(super) fn refused(
        &mut self,
        refusal: &Refusal,
        topic: &str,
        payload: &[u8],
        at: UnixMillis,
    ) -> Option<Outgoing> {
        self.figures.rejected = self.figures.rejected.saturating_add(1);
        let of_reason = self.reasons.entry(refusal.reason).or_default();
        *of_reason = of_reason.saturating_add(1);
        tracing::debug!(
            topic,
            reason = refusal.reason,
            detail = refusal.detail,
            "message refused"
        );
        self.left = self.left.checked_sub(1)?;
        let copy = payload.get(..REJECTED_COPY_MAX).unwrap_or(payload);
        signed(
            Topic::OpsRejected,
            &Rejected {
                at,
                topic: Text::clipped(topic),
                reason: Text::clipped(refusal.reason),
                detail: Text::clipped(&refusal.detail),
                copy: Blob(copy.to_vec()),
                count: self.figures.rejected,
            },
            false,
        )
    }

    /// Logs what was refused since the last time, by reason.
    pub(super) fn log_refusals(&mut self) {
        if self.logged != self.figures.rejected {
            self.logged = self.figures.rejected;
            let (rejected, reasons) = (self.figures.rejected, &self.reasons);
            tracing::info!(rejected, ?reasons, "messages refused since the start");
        }
    }

    /// The node's status, kept by the broker.
    pub(super) fn status(&self, online: bool, state: &str, at: UnixMillis) -> Option<Outgoing> {
        node_status(&self.node, online, state, at)
    }

    /// The figures.
    pub(super) fn statistics(
        &self,
        entries: EntryNumber,
        devices: u64,
        at: UnixMillis,
    ) -> Option<Outgoing> {
        let Figures {
            received,
            rejected,
            decided,
        } = self.figures;
        signed(
            Topic::OpsStatistics(self.node.clone()),
            &Statistics {
                node: self.node.clone(),
                at,
                entries,
                received,
                rejected,
                decided,
                devices,
            },
            false,
        )
    }
}

/// The node's status, also for the last will.
pub(crate) fn node_status(
    node: &NodeId,
    online: bool,
    state: &str,
    at: UnixMillis,
) -> Option<Outgoing> {
    signed(
        Topic::OpsNode(node.clone()),
        &NodeStatus {
            node: node.clone(),
            online,
            at,
            agent: Text::clipped(concat!("simquota-cloud ", env!("CARGO_PKG_VERSION"))),
            state: Text::clipped(state),
        },
        true,
    )
}

pub(super) fn signed<T: serde::Serialize>(
    topic: Topic,
    message: &T,
    retain: bool,
) -> Option<Outgoing> {
    match codec::encode(message) {
        Ok(payload) => Some(Outgoing {
            topic,
            payload,
            retain,
            seal: Seal::Signed,
        }),
        Err(error) => {
            tracing::error!(%topic, %error, "message not written: report this");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn refusals_are_always_counted_published_up_to_a_rate_and_copied_up_to_a_bound() {
        let mut operators = Operators::new("cloud-1".parse().unwrap(), 2);
        let refusal = Refusal {
            reason: "forged",
            detail: "d".repeat(500),
        };
        let publish = |operators: &mut Operators| {
            operators.refused(&refusal, &"t".repeat(300), &[7; 1000], UnixMillis(1))
        };
        let first = publish(&mut operators).unwrap();
        let message: Rejected = codec::decode(&first.payload).unwrap();
        assert_eq!(message.copy.0.len(), REJECTED_COPY_MAX);
        assert_eq!((message.reason.as_str(), message.count), ("forged", 1));
        assert!(publish(&mut operators).is_some());
        assert!(publish(&mut operators).is_none());
        operators.second();
        let message: Rejected = codec::decode(&publish(&mut operators).unwrap().payload).unwrap();
        assert_eq!(message.count, 4);
        assert_eq!(operators.reasons.get("forged"), Some(&4));
    }
}
