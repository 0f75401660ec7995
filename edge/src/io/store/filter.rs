//! Which rows a compaction drops.

use std::sync::{Arc, Mutex, PoisonError};

use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use simquota_shared::units::{Epoch, Seq};

use crate::agent::Durable;

/// What is kept: rows of this epoch beyond this number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) epoch: Epoch,
    pub(super) acked: Seq,
}

impl Live {
    pub(super) fn of(state: &Durable) -> Live {
        Live {
            epoch: state.epoch,
            acked: state.acked,
        }
    }

    fn is_dead(self, key: &[u8]) -> bool {
        // A key of another length is not ours to judge.
        let Ok(key) = <[u8; 16]>::try_from(key) else {
            return false;
        };
        let live_from = (u128::from(self.epoch.0) << 64) | u128::from(self.acked.0);
        let key = u128::from_be_bytes(key);
        (key >> 64) != (live_from >> 64) || key <= live_from
    }
}

/// What the compaction that began last was told; nothing before the first one.
#[derive(Debug, Default)]
pub(super) struct Keep(Mutex<Option<Live>>);

impl Keep {
    pub(super) fn set(&self, live: Live) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(live);
    }

    fn live(&self) -> Option<Live> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct DropDead {
    keep: Arc<Keep>,
}

impl DropDead {
    pub(super) fn new(keep: Arc<Keep>) -> DropDead {
        DropDead { keep }
    }
}

impl Factory for DropDead {
    fn name(&self) -> &str {
        "drop-dead-rows"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Filter(self.keep.live()))
    }
}

struct Filter(Option<Live>);

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        // Destroyed without a tombstone: a row's key is written once, so no older version can come back.
        Ok(match self.0 {
            Some(live) if live.is_dead(item.key()) => Verdict::Destroy,
            _ => Verdict::Keep,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_is_another_epoch_or_up_to_the_mark() {
        let live = Live {
            epoch: Epoch(7),
            acked: Seq(10),
        };
        let key = |epoch: u64, last: u64| [epoch.to_be_bytes(), last.to_be_bytes()].concat();
        assert!(live.is_dead(&key(7, 10)));
        assert!(!live.is_dead(&key(7, 11)));
        assert!(live.is_dead(&key(6, 11)));
        assert!(live.is_dead(&key(8, 11)));
        assert!(!live.is_dead(b"state"));
    }
}
