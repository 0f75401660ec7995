//! The rules that the kit tries, and what came of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A rule of PROTOCOL.md that can be seen to be kept from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    Sealed,
    RegistersFirst,
    RepeatsRegistration,
    Initial,
    RepeatsRequest,
    ResendsUsage,
    StopsAtCeiling,
    RepeatedAnswer,
    ForgedAnswer,
    OtherEpoch,
    OlderNumber,
    Rubbish,
    Busy,
    KeepsCeiling,
    Push,
    Silence,
    Restrict,
    Throttle,
    Validity,
    Holding,
    Final,
    CommandOnce,
    CommandOrder,
    UnknownEpoch,
    SampleNumbers,
    Totals,
    NewEpoch,
}

impl Rule {
    pub(super) const ALL: [Self; 27] = [
        Self::Sealed,
        Self::RegistersFirst,
        Self::RepeatsRegistration,
        Self::Initial,
        Self::RepeatsRequest,
        Self::ResendsUsage,
        Self::StopsAtCeiling,
        Self::RepeatedAnswer,
        Self::ForgedAnswer,
        Self::OtherEpoch,
        Self::OlderNumber,
        Self::Rubbish,
        Self::Busy,
        Self::KeepsCeiling,
        Self::Push,
        Self::Silence,
        Self::Restrict,
        Self::Throttle,
        Self::Validity,
        Self::Holding,
        Self::Final,
        Self::CommandOnce,
        Self::CommandOrder,
        Self::UnknownEpoch,
        Self::SampleNumbers,
        Self::Totals,
        Self::NewEpoch,
    ];

    /// A short name, where it stands in PROTOCOL.md, and what it says.
    pub(super) const fn text(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Sealed => (
                "sealed",
                "3, 4",
                "each message is canonical, under the device's key",
            ),
            Self::RegistersFirst => (
                "registers-first",
                "7",
                "nothing is asked or reported before the registration is answered",
            ),
            Self::RepeatsRegistration => (
                "repeats-registration",
                "7",
                "an unanswered registration comes again, octet for octet",
            ),
            Self::Initial => ("initial", "7", "a start asks with an initial"),
            Self::RepeatsRequest => (
                "repeats-request",
                "7, R5",
                "an unanswered request comes again, octet for octet",
            ),
            Self::ResendsUsage => (
                "resends-usage",
                "7",
                "usage that the ledger has not acknowledged comes again",
            ),
            Self::StopsAtCeiling => ("stops-at-ceiling", "1", "not an octet beyond the ceiling"),
            Self::RepeatedAnswer => (
                "repeated-answer",
                "R7",
                "an answer that comes thrice grants once",
            ),
            Self::ForgedAnswer => (
                "forged-answer",
                "4",
                "an answer under another key does not count",
            ),
            Self::OtherEpoch => (
                "other-epoch",
                "R1",
                "an answer of another epoch does not count",
            ),
            Self::OlderNumber => (
                "older-number",
                "R2",
                "an answer to an older request does not count",
            ),
            Self::Rubbish => ("rubbish", "3", "what is damaged or too large is ignored"),
            Self::Busy => ("busy", "10", "after 3004 the same octets come again"),
            Self::KeepsCeiling => (
                "keeps-ceiling",
                "R2",
                "an update's answer does not lower the ceiling",
            ),
            Self::Push => ("push", "R7", "a push moves the ceiling right"),
            Self::Validity => ("validity", "R3", "validity counts from the first sending"),
            Self::Silence => (
                "silence",
                "6",
                "without an answer traffic goes on to the stop at most",
            ),
            Self::Restrict => (
                "restrict",
                "6",
                "a restricted last grant goes on to the stop at most",
            ),
            Self::Throttle => (
                "throttle",
                "6",
                "a throttled last grant goes on no faster than it says",
            ),
            Self::Holding => (
                "holding",
                "7",
                "after the holding time, and not before, everything is given back",
            ),
            Self::Final => (
                "final",
                "7",
                "a revoked device gives everything back, and asks again",
            ),
            Self::CommandOnce => (
                "command-once",
                "7",
                "a repeated command is acknowledged and not done again",
            ),
            Self::CommandOrder => (
                "command-order",
                "7",
                "a command older than the last one is superseded",
            ),
            Self::UnknownEpoch => (
                "unknown-epoch",
                "10",
                "after 5002 it registers, then asks with an initial",
            ),
            Self::SampleNumbers => (
                "sample-numbers",
                "6",
                "samples are numbered without a gap, and never changed",
            ),
            Self::Totals => ("totals", "6", "the used total is the sum of the samples"),
            Self::NewEpoch => ("new-epoch", "10", "after 5003 it starts a new epoch"),
        }
    }
}

/// What came of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Kept,
    Broken(String),
    /// It is a choice, and the device does not have it.
    NotOffered,
}

/// What came of all.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    outcomes: BTreeMap<Rule, Outcome>,
}

impl Report {
    /// Notes an outcome; what was broken once stays so.
    pub(super) fn note(&mut self, rule: Rule, outcome: Outcome) {
        let before = self.outcomes.get(&rule);
        if !matches!(before, Some(Outcome::Broken(_))) {
            self.outcomes.insert(rule, outcome);
        }
    }

    pub(super) fn broken(&self, rule: Rule) -> bool {
        matches!(self.outcomes.get(&rule), Some(Outcome::Broken(_)))
    }

    pub(super) fn not_offered(&self, rule: Rule) -> bool {
        self.outcomes.get(&rule) == Some(&Outcome::NotOffered)
    }

    /// Every rule is kept, or a choice that the device does not have.
    pub(super) fn passed(&self) -> bool {
        Rule::ALL.iter().all(|rule| {
            matches!(
                self.outcomes.get(rule),
                Some(Outcome::Kept | Outcome::NotOffered)
            )
        })
    }

    fn words(&self, rule: Rule) -> (&'static str, &str) {
        match self.outcomes.get(&rule) {
            Some(Outcome::Kept) => ("kept", ""),
            Some(Outcome::Broken(why)) => ("BROKEN", why),
            Some(Outcome::NotOffered) => ("not offered", ""),
            None => ("not reached", ""),
        }
    }

    pub(super) fn to_table(&self) -> String {
        let mut table = String::new();
        for rule in Rule::ALL {
            let (name, section, says) = rule.text();
            let (outcome, why) = self.words(rule);
            let _ = writeln!(table, "{outcome:<12} {name:<21} {section:<6} {says}");
            if !why.is_empty() {
                let _ = writeln!(table, "{:<12} {why}", "");
            }
        }
        table
    }

    pub(super) fn to_json(&self) -> String {
        let rules: Vec<serde_json::Value> = Rule::ALL
            .iter()
            .map(|rule| {
                let (name, section, says) = rule.text();
                let (outcome, why) = self.words(*rule);
                serde_json::json!({
                    "rule": name,
                    "section": section,
                    "says": says,
                    "outcome": outcome.to_lowercase(),
                    "why": why,
                })
            })
            .collect();
        let report = serde_json::json!({ "passed": self.passed(), "rules": rules });
        format!("{report}\n")
    }
}
