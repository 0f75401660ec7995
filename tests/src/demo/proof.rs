//! The proof: what was metered, what was charged, and every identity of the ledger.
//!
//! Three sources are held against each other: the agents' stores (what was durably metered), the ledger (what was
//! charged), and what really passed: the traces' own counters and the kernel's on `lo`.

mod check;

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::cloud::{number, text};
use super::plan::{HERO, METER, MODEM, MODEM_POOL};
use super::sim::SimSeen;
use super::stage::Stage;
use super::trace::delivered;
use check::{Check, all_but, grouped};

/// The steps of the patent application that `explain` has to show of the device that the story is about.
const STEPS: [&str; 11] = [
    "S11", "S12", "S13", "S21", "S22", "S23", "S31", "S32", "S33", "S41", "S43",
];
/// The unexpected stop; its row also shows S32.
const STOP_STEP: &str = "S5";

/// What was seen of the interface beside its agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meters {
    /// Octets of payload that the demo itself sent over it while it was metered.
    pub(super) own: u64,
    /// What the kernel counted from before the agent's start to after its end.
    pub(super) lo_kernel: Option<u64>,
    /// The SIM behind the gate in the kernel.
    pub(super) sim: Option<SimSeen>,
}

/// What the ledger said while grants were open: at the end most accounts are empty, and an identity says little.
pub(super) struct Midway {
    rows: Vec<Value>,
    packages: Vec<Value>,
    audit: Value,
}

impl Midway {
    /// Asks the running service.
    pub(super) fn ask(stage: &Stage) -> anyhow::Result<Midway> {
        Ok(Midway {
            rows: rows(stage.cloud.run(["device", "list"])?),
            packages: rows(stage.cloud.run(["package", "list"])?),
            audit: stage.cloud.audit()?,
        })
    }
}

/// What the story left for the proof; nothing where it was cut short.
#[derive(Default)]
pub(super) struct Seen {
    /// The entry that gave back the killed agent's remainder.
    pub(super) returned: Option<String>,
    /// The ledger with grants open.
    pub(super) midway: Option<Midway>,
}

/// A device's figures, in octets.
struct Line {
    id: String,
    /// What really passed; none where only bounds are known.
    passed: Option<u64>,
    metered: u64,
    charged: u64,
}

impl Line {
    const fn lost(&self) -> u64 {
        self.metered.saturating_sub(self.charged)
    }

    const fn doubled(&self) -> u64 {
        self.charged.saturating_sub(self.metered)
    }
}

/// Everything that the last lines say.
pub(super) struct Proof {
    lines: Vec<Line>,
    checks: Vec<Check>,
    explained: Vec<Value>,
    sim: Option<SimSeen>,
    entries: u64,
    devices: usize,
    seconds: u64,
}

impl Proof {
    /// Asks the running service, ends it, and reads the agents' stores.
    pub(super) fn gather(stage: &mut Stage, meters: Meters, seen: Seen) -> anyhow::Result<Proof> {
        let Seen { returned, midway } = seen;
        stage
            .show
            .headline("the audit: every balance anew from the journal");
        let rows = rows(stage.cloud.run(["device", "list"])?);
        let packages = self::rows(stage.cloud.run(["package", "list"])?);
        let explained = self::rows(stage.cloud.run(["explain", HERO, "--fleet", "buses"])?);
        let audit = stage.cloud.audit()?;
        stage.end_cloud()?;
        let speed = stage.options.speed();
        let mut lines = Vec::new();
        let mut epochs = Vec::new();
        for agent in &stage.agents {
            let id = agent.planned.id.clone();
            let stored = agent.stored()?;
            let row = rows.iter().find(|row| text(row, "device") == id);
            let state = agent.folder.join("data/trace-state");
            let passed = agent
                .planned
                .trace
                .as_ref()
                .map(|trace| delivered(trace, &state, speed))
                .transpose()?;
            if row.is_none_or(|row| {
                number(row, "epochs") != 1 || row.get("epoch") != stored.get("epoch")
            }) {
                epochs.push(id.clone());
            }
            let on_sim = meters.sim.filter(|_| id == MODEM);
            lines.push(Line {
                passed: passed.or(on_sim.map(|sim| sim.passed.0)),
                metered: number(&stored, "used"),
                charged: row.map_or(0, |row| number(row, "charged")),
                id,
            });
        }
        let mut checks = vec![
            check::packages_balance(&packages),
            check::segments_back(&rows),
            check::debits_add_up(&rows, &audit),
            check::packages_paid(&packages, &rows, &audit),
            check::grants_returned(&rows, &packages),
            check::journal(&audit, Some(&rows)),
            Check {
                name: "each device had one epoch, and the cloud knows it",
                says: all_but(&epochs, lines.len()),
                holds: epochs.is_empty(),
            },
            check::traces_metered(&lines),
            check::lo_metered(&lines, meters),
            check::errors(&stage.folder),
        ];
        checks.extend(midway.as_ref().map(check::midway));
        checks.extend(meters.sim.map(|sim| check::sim_metered(&lines, sim)));
        // A story that was cut short has not come to this.
        if returned.is_some() || !stage.interrupts.any() {
            checks.push(check::remainder(returned));
        }
        Ok(Proof {
            lines,
            checks,
            explained,
            sim: meters.sim,
            entries: number(&audit, "entries"),
            devices: stage.agents.len(),
            seconds: stage.options.seconds,
        })
    }

    /// Nothing lost, nothing doubled, every identity holds.
    pub(super) fn holds(&self) -> bool {
        let exact = self.lines.iter().all(|line| line.metered == line.charged);
        exact && self.checks.iter().all(|check| check.holds)
    }

    fn sum(&self, of: impl Fn(&Line) -> u64) -> u64 {
        self.lines.iter().map(of).sum()
    }

    fn on_lo(&self, of: impl Fn(&Line) -> u64) -> u64 {
        self.lines
            .iter()
            .filter(|line| line.id == METER)
            .map(of)
            .sum()
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("\n");
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "Where the octets of {HERO} went (`simquota-cloud explain {HERO}`, {} entries, the first of each step):\n",
            self.explained.len()
        );
        for row in self.telling() {
            let _ = writeln!(
                text,
                "  entry {:>5}  {:<23} {}",
                number(row, "entry"),
                self::text(row, "steps"),
                self::text(row, "words")
            );
        }
        let _ = writeln!(
            text,
            "\n{:<12} {:>15} {:>15} {:>15} {:>8} {:>8}",
            "OCTETS", "PASSED", "METERED", "CHARGED", "LOST", "DOUBLED"
        );
        for line in &self.lines {
            let passed = line.passed.map_or("(lo)".to_owned(), grouped);
            let _ = writeln!(
                text,
                "{:<12} {passed:>15} {:>15} {:>15} {:>8} {:>8}",
                line.id,
                grouped(line.metered),
                grouped(line.charged),
                grouped(line.lost()),
                grouped(line.doubled())
            );
        }
        text.push_str(&self.gate_text());
        text.push('\n');
        for Check { name, says, holds } in &self.checks {
            let verdict = if *holds { "holds " } else { "BROKEN" };
            let _ = writeln!(text, "{verdict}  {name}: {says}");
        }
        let _ = writeln!(
            text,
            "\naudit: metered {}, charged {}, lost {}, doubled {} octets; {} of the charged were metered on the real interface lo",
            grouped(self.sum(|line| line.metered)),
            grouped(self.sum(|line| line.charged)),
            grouped(self.sum(Line::lost)),
            grouped(self.sum(Line::doubled)),
            grouped(self.on_lo(|line| line.charged)),
        );
        let broken = self.checks.iter().filter(|check| !check.holds).count();
        let _ = match self.holds() {
            true => writeln!(
                text,
                "every octet is accounted for exactly once; all {} identities hold",
                self.checks.len()
            ),
            false => writeln!(
                text,
                "NOT PROVED: see the figures above; {broken} of {} identities are broken",
                self.checks.len()
            ),
        };
        text
    }

    /// What the kernel let pass, where there was a gate in it.
    fn gate_text(&self) -> String {
        let Some(sim) = self.sim else {
            return String::new();
        };
        let mut text = format!(
            "\n{:<12} {:>15} {:>15} {:>15} {:>17}\n",
            "GATE nft", "PASSED", "METERED", "CHARGED", "OVERRUN"
        );
        if let Some(at) = sim.stopped {
            let _ = writeln!(
                text,
                "{:<12} {:>15} {:>15} {:>15} {:>17}",
                "at its grant",
                grouped(at.passed),
                grouped(at.metered),
                grouped(at.charged),
                grouped(at.overrun())
            );
        }
        for line in self.lines.iter().filter(|line| line.id == MODEM) {
            let _ = writeln!(
                text,
                "{:<12} {:>15} {:>15} {:>15} {:>17}",
                "at the end",
                grouped(sim.passed.0),
                grouped(line.metered),
                grouped(line.charged),
                "-"
            );
        }
        text.push_str("passed: by the far end's own counter\n");
        text
    }

    /// For programs, in one line.
    pub(super) fn json(&self) -> Value {
        let identities: Vec<Value> = self
            .checks
            .iter()
            .map(|check| json!({ "name": check.name, "holds": check.holds, "says": check.says }))
            .collect();
        let per_device: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "device": line.id, "passed": line.passed, "metered": line.metered, "charged": line.charged,
                    "lost": line.lost(), "doubled": line.doubled(),
                })
            })
            .collect();
        json!({
            "holds": self.holds(),
            "devices": self.devices,
            "seconds": self.seconds,
            "metered": self.sum(|line| line.metered),
            "charged": self.sum(|line| line.charged),
            "lost": self.sum(Line::lost),
            "doubled": self.sum(Line::doubled),
            "gate": self.sim.map(|sim| json!({
                "grant": MODEM_POOL,
                "passed": sim.passed.0,
                "stopped": sim.stopped.map(|at| json!({
                    "passed": at.passed, "metered": at.metered, "charged": at.charged, "overrun": at.overrun(),
                })),
            })),
            "charged_on_lo": self.on_lo(|line| line.charged),
            "entries": self.entries,
            "steps": self.seen(),
            "identities": identities,
            "per_device": per_device,
        })
    }

    /// The rows that show each step for the first time; for the return of a remainder those at a start.
    fn telling(&self) -> Vec<&Value> {
        let mut rows: Vec<&Value> = Vec::new();
        for step in STEPS.into_iter().chain([STOP_STEP]) {
            let shows = |row: &&Value| has_step(row, step);
            let at_start = |row: &&Value| text(row, "words").contains("(initial, boot)");
            let returns = matches!(step, "S22" | "S23");
            let found = match returns {
                true => self.explained.iter().filter(shows).find(at_start),
                false => None,
            };
            if let Some(row) = found.or_else(|| self.explained.iter().find(shows))
                && !rows
                    .iter()
                    .any(|there| number(there, "entry") == number(row, "entry"))
            {
                rows.push(row);
            }
        }
        // And how it ended.
        let closing = |row: &&Value| text(row, "words").contains("(final, shutdown)");
        if let Some(last) = self.explained.iter().rev().find(closing)
            && !rows
                .iter()
                .any(|there| number(there, "entry") == number(last, "entry"))
        {
            rows.push(last);
        }
        rows.sort_by_key(|row| number(row, "entry"));
        rows
    }

    fn seen(&self) -> Vec<&'static str> {
        let seen = |step: &&str| self.explained.iter().any(|row| has_step(row, step));
        STEPS.into_iter().chain([STOP_STEP]).filter(seen).collect()
    }
}

fn has_step(row: &Value, step: &str) -> bool {
    text(row, "steps").split(' ').any(|there| there == step)
}

fn rows(value: Value) -> Vec<Value> {
    match value {
        Value::Array(rows) => rows,
        other => vec![other],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn proof(metered: u64, charged: u64, holds: bool) -> Proof {
        Proof {
            lines: vec![Line {
                id: METER.to_owned(),
                passed: None,
                metered,
                charged,
            }],
            checks: vec![Check {
                name: "an identity",
                says: String::new(),
                holds,
            }],
            explained: Vec::new(),
            sim: None,
            entries: 1,
            devices: 1,
            seconds: 5,
        }
    }

    #[test]
    fn one_octet_lost_or_doubled_or_one_broken_identity_is_no_proof() {
        assert!(proof(10, 10, true).holds());
        for (metered, charged, holds) in [(10, 9, true), (9, 10, true), (10, 10, false)] {
            let proof = proof(metered, charged, holds);
            assert!(!proof.holds());
            assert!(proof.text().contains("NOT PROVED"), "{}", proof.text());
            assert_eq!(proof.json()["holds"], false);
        }
        assert_eq!(proof(10, 9, true).json()["lost"], 1);
        assert_eq!(proof(9, 10, true).json()["doubled"], 1);
    }

    #[test]
    fn an_identity_that_is_off_by_one_octet_is_named() {
        let mut package = json!({
            "package": "p", "volume": 10, "credited": 2, "available": 3, "reserved": 4, "used": 5,
            "expired": 0, "refunded": 0, "moved_out": 0,
        });
        assert!(check::packages_balance(std::slice::from_ref(&package)).holds);
        package["used"] = json!(6);
        let check = check::packages_balance(&[package]);
        assert!(
            !check.holds && check.says.starts_with("not p;"),
            "{}",
            check.says
        );
        let mut device = json!({ "device": "d", "ceiling": 9, "charged_epoch": 4, "reserved": 5 });
        assert!(check::segments_back(std::slice::from_ref(&device)).holds);
        device["reserved"] = json!(4);
        assert!(!check::segments_back(&[device]).holds);
    }
}
