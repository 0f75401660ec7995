//! What is told: lines of the agents' logs, as events with the patent's steps.

use std::collections::BTreeMap;

use simquota_shared::units::{Octets, human};

use super::plan::Planned;

/// So often an event of one kind is told of a device whose every event is told.
const TOLD_MAX: u32 = 2;
/// Kinds of event that are requests.
const REQUESTS: [&str; 3] = ["initial", "update", "final"];

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The patent's steps that it shows, or nothing.
    pub(super) steps: &'static str,
    /// Of which device or part.
    pub(super) who: String,
    /// In words.
    pub(super) words: String,
}

/// An event before it is known whether it is told.
struct Told {
    steps: &'static str,
    /// What it is a repeat of.
    kind: &'static str,
    words: String,
}

/// Remembers what was told, so that it is not told again for each device.
#[derive(Debug, Default)]
pub(super) struct Story {
    told: BTreeMap<(String, &'static str), u32>,
    /// The last request of each device: only that says what an answer means.
    asked: BTreeMap<String, &'static str>,
}

impl Story {
    /// From here on events of this device are told again.
    pub(super) fn again(&mut self, device: &str) {
        self.told.retain(|(whose, _), _| whose != device);
    }

    /// The event that a log line is, unless it is none or was told often enough.
    pub(super) fn of_line(&mut self, device: &Planned, line: &str) -> Option<Event> {
        let Told { steps, kind, words } = told(line)?;
        if REQUESTS.contains(&kind) {
            self.asked.insert(device.id.clone(), kind);
        }
        if kind == "granted" && self.asked.get(&device.id) == Some(&"final") {
            let words = "the cloud has taken it back".to_owned();
            return self.once(device, "S23", "taken-back", words);
        }
        self.once(device, steps, kind, words)
    }

    /// An event that is told once for all devices, and a little more often for those that are told wholly.
    pub(super) fn once(
        &mut self,
        device: &Planned,
        steps: &'static str,
        kind: &'static str,
        words: String,
    ) -> Option<Event> {
        let (whose, most) = match device.is_told() {
            true => (device.id.clone(), TOLD_MAX),
            false => (String::new(), 1),
        };
        let count = self.told.entry((whose, kind)).or_default();
        *count += 1;
        (*count <= most).then(|| Event {
            steps,
            who: device.id.clone(),
            words,
        })
    }
}

fn told(line: &str) -> Option<Told> {
    let event = |steps, kind, words| Some(Told { steps, kind, words });
    let has = |fact: &str| line.contains(fact);
    let octets = |key| {
        human(Octets(
            field(line, key)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        ))
    };
    if has(": registered") {
        event(
            "S11",
            "registered",
            "registered: its key and its basic information were verified".to_owned(),
        )
    } else if has(": SIM was bound") {
        let (iccid, operator) = (
            field(line, "iccid")?,
            field(line, "operator").unwrap_or_default(),
        );
        event(
            "S12",
            "bound",
            format!("got a SIM out of the pool, bound to it: {iccid} ({operator})"),
        )
    } else if has(": quota was requested") {
        requested(line)
    } else if has(": quota was answered") {
        answered(line)
    } else if has(": ceiling was reached") {
        event(
            "S43",
            "ceiling",
            format!(
                "used its quota up to the last octet ({}): traffic stops",
                octets("used")
            ),
        )
    } else if has("order taken order=LeaveSim") {
        event(
            "S33",
            "leave",
            "leaves its SIM for another network: the usage up to this moment is stored".to_owned(),
        )
    } else if has("order taken order=ReturnSim") {
        event("", "return", "is back on its SIM".to_owned())
    } else if has(": grant expired") {
        event("", "expired", "its grant expired".to_owned())
    } else if has("a new epoch began") {
        event("", "epoch", "began a new epoch".to_owned())
    } else {
        None
    }
}

fn requested(line: &str) -> Option<Told> {
    let number = field(line, "number")?;
    let reason = field(line, "reason").unwrap_or_default();
    let octets = |key| {
        human(Octets(
            field(line, key)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        ))
    };
    let (steps, kind, words) = match field(line, "kind")? {
        "Initial" => (
            "S21",
            "initial",
            format!(
                "request {number} ({reason}): asks for quota at {} used",
                octets("used")
            ),
        ),
        "Update" => (
            "S41 S43",
            "update",
            match reason {
                "exhausted" => format!(
                    "request {number} ({reason}): its quota of {} is used up, asks for more",
                    octets("used")
                ),
                _ => format!(
                    "request {number} ({reason}): its quota runs low at {} used, asks for more",
                    octets("used")
                ),
            },
        ),
        _ => (
            "S21 S22",
            "final",
            format!(
                "request {number} ({reason}): gives back {}",
                octets("returned")
            ),
        ),
    };
    Some(Told { steps, kind, words })
}

fn answered(line: &str) -> Option<Told> {
    let number = field(line, "number")?;
    let code = field(line, "code")?;
    let ceiling = human(Octets(field(line, "ceiling")?.parse().unwrap_or(0)));
    let push = field(line, "push") != Some("0");
    let (steps, kind, words) = match (code, push) {
        ("2001", true) => (
            "S31",
            "push",
            format!("is told unasked: it may go on up to {ceiling}"),
        ),
        ("2001", false) => (
            "S31",
            "granted",
            format!("answer {number}: it may use up to {ceiling}"),
        ),
        ("4012", _) => (
            "",
            "empty",
            format!("answer {number}: 4012, no package has anything left"),
        ),
        (other, _) => ("", "refused", format!("answer {number}: {other}")),
    };
    Some(Told { steps, kind, words })
}

/// A field of a log line, without its quotes.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!(" {key}="))?;
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split(' ').next(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn log_lines_become_events_with_their_steps() {
        let before =
            "2026-11-22T10:00:00.1Z  INFO edge{device=tracker-1}: simquota_edge::run::notice: ";
        let line = format!(
            "{before}quota was requested number=7 kind=Update reason=\"threshold\" used=81000 returned=0"
        );
        let event = told(&line).unwrap();
        assert_eq!(event.steps, "S41 S43");
        assert_eq!(
            event.words,
            "request 7 (threshold): its quota runs low at 81.00 kB used, asks for more"
        );
        let line = format!(
            "{before}quota was answered number=7 push=0 code=4012 credit limit reached ceiling=9 balance=\"0 B\""
        );
        assert_eq!(
            told(&line).unwrap().words,
            "answer 7: 4012, no package has anything left"
        );
        assert!(told(&format!("{before}policy was set version=1")).is_none());
    }
}
