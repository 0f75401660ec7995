//! What managers order besides packages and commands to devices: plans, overage, limits, rules, money, refunds.
//!
//! It draws from a stream of its own: what else happens in a seed stays as it is.

use serde_cbor::Value;

use super::cloud::{self, number, text};
use super::plan::{DAY, HOUR};
use super::run::Simulation;

impl Simulation {
    /// One order, whatever the dice say. Refusals are fine: they change nothing.
    pub(super) fn rule(&mut self, n: usize) {
        let fleet = cloud::fleet();
        let device = text(&self.names[n]);
        let octets = number(self.plan.top_up_octets);
        let now = self.cloud.clock(self.now).value();
        match self.rules.below(24) {
            0 => self.order(
                &fleet,
                "package-buy",
                &[
                    ("volume", octets),
                    ("device", device),
                    ("first_use_days", number(1)),
                ],
            ),
            1 => self.order(
                &fleet,
                "package-buy",
                &[("volume", octets.clone()), ("overage", octets)],
            ),
            2 => {
                let from = number(now + HOUR + self.rules.below(DAY));
                self.order(&fleet, "package-buy", &[("volume", octets), ("from", from)]);
            }
            3 => {
                let minute = number(self.rules.below(24 * 60));
                let pairs = [
                    ("volume", octets.clone()),
                    ("every", text("day")),
                    ("minute", minute),
                    ("place", text("Asia/Kolkata")),
                    ("rollover_max", octets),
                ];
                self.order(&fleet, "plan-begin", &pairs);
            }
            4 => {
                if let Some(plan) = self.cloud.ledger.plans.keys().next_back().cloned() {
                    self.order(&fleet, "plan-end", &[("plan", text(plan))]);
                }
            }
            5 => {
                let cap = number(self.plan.want * (1 + self.rules.below(20)));
                let limit = ["device_day", "pool_day", "share"][self.rules.below(3) as usize % 3];
                self.order(&fleet, "fleet-limits", &[(limit, cap)]);
            }
            6 => self.order(&fleet, "fleet-limits", &[]),
            7 => {
                let pairs = [
                    ("rule", text("refill")),
                    ("percent", number(1 + self.rules.below(100))),
                    ("volume", octets),
                    ("most", number(3)),
                ];
                self.order(&fleet, "top-up-set", &pairs);
            }
            8 => self.order(&fleet, "fleet-suspend", &[]),
            9 => self.order(&fleet, "fleet-resume", &[]),
            10 | 11 => self.refund(),
            12 => {
                let Some(package) = self.open_package() else {
                    return;
                };
                let pairs = [
                    ("from", text(package)),
                    ("device", device),
                    ("octets", number(1 + self.rules.below(100_000))),
                    ("why", text("a trip")),
                ];
                self.order(&fleet, "package-move", &pairs);
            }
            13 => {
                let limit = ["device_month", "pool_month"][self.rules.below(2) as usize % 2];
                let cap = number(self.plan.want * (1 + self.rules.below(40)));
                let place = text("America/Sao_Paulo");
                self.order(&fleet, "fleet-limits", &[(limit, cap), ("place", place)]);
            }
            14 | 15 => {
                let limit = ["day", "month"][self.rules.below(2) as usize % 2];
                let cap = number(self.plan.want * self.rules.below(20));
                self.order(&fleet, "device-limits", &[("device", device), (limit, cap)]);
            }
            16 => {
                let percents = Value::Array(vec![number(30), number(60), number(90)]);
                self.order(&fleet, "fleet-thresholds", &[("percents", percents)]);
            }
            17 => {
                let Some(package) = self.open_package() else {
                    return;
                };
                let pairs = [
                    ("package", text(package)),
                    ("octets", number(1 + self.rules.below(500_000))),
                    ("why", text("a mistake")),
                ];
                self.order(&fleet, "package-debit", &pairs);
            }
            18 => {
                let priority = number(self.rules.below(200));
                let pairs = [
                    ("volume", octets),
                    ("priority", priority),
                    ("device", device),
                    ("days", number(1 + self.rules.below(3))),
                ];
                self.order(&fleet, "package-buy", &pairs);
            }
            19 => {
                let pairs = [
                    ("rule", text("own")),
                    ("device", device),
                    ("percent", number(1 + self.rules.below(100))),
                    ("volume", octets),
                    ("most", number(2)),
                    ("days", number(1)),
                ];
                self.order(&fleet, "top-up-set", &pairs);
            }
            20 => {
                let pairs = [
                    ("volume", octets),
                    ("every", text("week")),
                    ("device", device),
                ];
                self.order(&fleet, "plan-begin", &pairs);
            }
            21 | 22 => self.order(&fleet, "device-rotate-key", &[("device", device)]),
            23 => {
                let name = ["device-shut-out", "device-readmit"][self.rules.below(2) as usize % 2];
                self.order(&fleet, name, &[("device", device)]);
            }
            _ => {
                let money = [
                    ("fleet", text("fleet")),
                    ("amount", number(1000)),
                    ("why", text("invoice")),
                ];
                self.order_ops("money-deposit", &money);
                self.order(
                    &fleet,
                    "package-buy",
                    &[("volume", octets), ("price", number(700))],
                );
            }
        }
    }

    fn open_package(&mut self) -> Option<String> {
        let packages = &self.cloud.ledger.packages;
        let open: Vec<String> = packages
            .iter()
            .filter(|(_, package)| !package.ended)
            .map(|(id, _)| id.to_string())
            .collect();
        let pick = self.rules.below(open.len() as u64) as usize;
        open.get(pick).cloned()
    }

    /// A part of some deduction is given back.
    fn refund(&mut self) {
        let entries = self.cloud.journal.len() as u64;
        let entry = entries - self.rules.below(200.min(entries));
        let mut pairs = vec![("entry", number(entry)), ("why", text("goodwill"))];
        if self.rules.permille(500) {
            pairs.push(("octets", number(1 + self.rules.below(50_000))));
        }
        if let Some(package) = self.open_package() {
            pairs.push(("package", Value::Text(package)));
        }
        self.order(&cloud::fleet(), "refund", &pairs);
    }

    /// At rest nothing is limited and nobody suspended, so that whoever has a balance can use it.
    pub(super) fn lift_limits(&mut self) {
        let fleet = cloud::fleet();
        self.order(&fleet, "fleet-limits", &[]);
        self.order(&fleet, "fleet-resume", &[]);
        for rule in ["refill", "own"] {
            self.order(&fleet, "top-up-remove", &[("rule", text(rule))]);
        }
        for name in self.names.clone() {
            self.order(&fleet, "device-limits", &[("device", text(&name))]);
            self.order(&fleet, "device-readmit", &[("device", text(&name))]);
        }
    }
}
