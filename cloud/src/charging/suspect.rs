//! What calls for a look at a device: the meter is in its owner's hands, and what it says can only be bounded and compared.
//!
//! A suspicion is an entry of the journal without movements, and so an event of the fleet. It is no proof: a message that
//! a broker held back looks like a second device, a flash that failed looks like one that was rolled back. But nobody can
//! bring one upon a device by repeating what it said: what was seen before moves nothing, and raises nothing.

use std::ops::Bound;

use simquota_shared::ids::{DeviceId, Text};
use simquota_shared::units::UnixMillis;

use super::Turn;
use crate::ledger::Broken;
use crate::ledger::device::Device;
use crate::ledger::entry::{Cause, Subject, Suspected, reason};

/// One reason is told once in so long for a device: a thief must not fill the journal.
const AGAIN_MS: u64 = 86_400_000;

/// Refusals that an honest device with a sound store does not meet.
const SUSPICIOUS: [&str; 6] = [
    // Its serial number is another one, or the SIM of another device is in it.
    "second-serial",
    "second-sim",
    // Two stores under one key, or one store that is lost again and again.
    "too-many-epochs",
    // A store that was rolled back or edited, a meter that lies.
    "number-reused",
    "damaged-usage",
    "implausible-used",
];

impl Turn<'_> {
    /// Takes note of a refusal that calls for a look.
    pub(super) fn suspect_of(
        &mut self,
        id: &DeviceId,
        reason: &str,
        words: &str,
    ) -> Result<(), Broken> {
        if SUSPICIOUS.contains(&reason) {
            self.suspect(id, reason, words)?;
        }
        Ok(())
    }

    /// Takes note of what calls for a look at a device, once a day for each reason.
    pub(super) fn suspect(
        &mut self,
        id: &DeviceId,
        reason: &str,
        words: &str,
    ) -> Result<(), Broken> {
        let since = UnixMillis(self.now.value().saturating_sub(AGAIN_MS));
        // A name that is not known has nothing to protect.
        let known = self.ledger.devices.contains_key(id);
        if !known || self.ledger.access.suspected_since(id, reason, since) {
            return Ok(());
        }
        let cause = Cause::Suspected(Suspected {
            reason: Text::clipped(reason),
            words: Text::clipped(words),
        });
        self.record(Subject::Device(id.clone()), cause, Vec::new())
    }

    /// Looks at some devices after `from`, in order of their ids, and takes note of who was silent for too long, once
    /// for each silence. `seen` says when a device was last heard that left nothing in the journal, as with a status.
    /// Returns where to go on; `None` at the end.
    ///
    /// # Errors
    /// [`Broken`] when the ledger must be reloaded.
    pub fn watch_silence(
        &mut self,
        from: Option<&DeviceId>,
        most: usize,
        seen: impl Fn(&DeviceId) -> UnixMillis,
    ) -> Result<Option<DeviceId>, Broken> {
        if self.rules.silent_s == 0 {
            return Ok(None);
        }
        let after = from.map_or(Bound::Unbounded, Bound::Excluded);
        let range = (after, Bound::Unbounded);
        let looked = self.ledger.devices.range::<DeviceId, _>(range);
        let (mut silent, mut last, mut count) = (Vec::new(), None, 0);
        for (id, device) in looked.take(most) {
            (last, count) = (Some(id), count + 1);
            if let Some(for_s) = self.silent_for(id, device, seen(id)) {
                silent.push((id.clone(), for_s));
            }
        }
        let on = last.filter(|_| count == most).cloned();
        for (id, for_s) in silent {
            let words = format!("nothing was heard for {for_s} s");
            self.suspect(&id, reason::SILENT, &words)?;
        }
        Ok(on)
    }

    /// How long a device is silent already, when that is too long and was not told yet.
    fn silent_for(&self, id: &DeviceId, device: &Device, seen: UnixMillis) -> Option<u64> {
        let expected = !self.ledger.estate.retired.contains_key(id)
            && !self.ledger.access.barred.contains_key(id);
        let heard = device.heard.max(device.registered).max(seen);
        let for_s = self.now.beyond(heard) / 1000;
        let told = self.ledger.access.suspected_at(id, reason::SILENT);
        (expected && for_s >= self.rules.silent_s && told.is_none_or(|told| told < heard))
            .then_some(for_s)
    }
}
