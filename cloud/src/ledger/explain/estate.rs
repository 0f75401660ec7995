//! The upkeep of devices in words.

use crate::ledger::entry::{Cause, Entry};

pub(super) fn words(entry: &Entry) -> String {
    match &entry.cause {
        Cause::BulkBegan(began) => format!(
            "{} to {} devices, by {}: bulk command {}",
            began.name,
            began.devices.len(),
            began.author,
            began.bulk
        ),
        Cause::BulkWent(went) => {
            let refused = went.parts.iter().filter(|part| !part.code.is_success());
            format!(
                "bulk command {}: {} of {} devices are done, {} of these last {} refused",
                went.bulk,
                went.before.saturating_add(went.parts.len() as u64),
                went.of,
                refused.count(),
                went.parts.len()
            )
        }
        Cause::TagsSet(set) if set.tags.is_empty() => "its tags were taken away".to_owned(),
        Cause::TagsSet(set) => {
            let tags: Vec<&str> = set.tags.iter().map(|tag| tag.as_str()).collect();
            format!("tagged {}", tags.join(", "))
        }
        Cause::SimReleased(released) => format!("SIM {} went back to the pool", released.iccid),
        Cause::SimAssigned(assigned) => format!("SIM {} was bound to it", assigned.iccid),
        Cause::Replaced(replaced) => format!(
            "it was replaced: {} packages and {} went to {}",
            replaced.packages.len(),
            match &replaced.iccid {
                Some(iccid) => format!("SIM {iccid}"),
                None => "no SIM".to_owned(),
            },
            replaced.by
        ),
        Cause::Replaces(replaces) => format!("it takes the place of {}", replaces.device),
        Cause::Decommissioned(gone) => format!("it serves no more: {}", gone.why),
        _ => String::new(),
    }
}
