//! One name for a request or a sample, in the device's log, the cloud's log and the journal.
//!
//! Nothing of it is on the wire: both sides make it of what they know anyway. With the device's id it is unique for ever,
//! since neither epochs nor numbers are used twice.

use crate::codec;
use crate::message::{CreditRequest, UsageBatch};
use crate::topic::Up;
use crate::units::{Epoch, RequestNumber, Seq};

/// A credit request and its answer: `c-{epoch}-{number}`, the epoch in hexadecimal digits.
///
/// ```
/// use simquota_shared::trace;
/// use simquota_shared::units::{Epoch, RequestNumber};
/// assert_eq!(trace::credit(Epoch(0x1f), RequestNumber(3)), "c-1f-3");
/// ```
#[must_use]
pub fn credit(epoch: Epoch, number: RequestNumber) -> String {
    format!("c-{:x}-{number}", epoch.value())
}

/// Usage samples: `u-{epoch}-{first}..{last}`. A sample is in the one entry whose range has its number.
///
/// ```
/// use simquota_shared::trace;
/// use simquota_shared::units::{Epoch, Seq};
/// assert_eq!(trace::usage(Epoch(0x1f), Seq(4), Seq(9)), "u-1f-4..9");
/// ```
#[must_use]
pub fn usage(epoch: Epoch, first: Seq, last: Seq) -> String {
    format!("u-{:x}-{first}..{last}", epoch.value())
}

/// The name of what a device says; `None` for what leaves no entry of its own.
#[must_use]
pub fn of(up: Up, payload: &[u8]) -> Option<String> {
    match up {
        Up::Credit => {
            let request: CreditRequest = codec::decode(payload).ok()?;
            Some(credit(request.epoch, request.number))
        }
        Up::Usage => {
            let batch: UsageBatch = codec::decode(payload).ok()?;
            let merged = batch.spans.iter().map(|(_, count)| count.saturating_sub(1));
            let rows = u64::try_from(batch.up.len()).ok()?;
            let samples = rows.checked_add(merged.sum())?;
            let last = batch.first.checked_add(samples.checked_sub(1)?)?;
            Some(usage(batch.epoch, batch.first, last))
        }
        Up::Register | Up::Ack => None,
    }
}
