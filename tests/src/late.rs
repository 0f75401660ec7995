//! What of each debit came late, found out once more: from what the journal's entries say, and with none of the ledger's
//! code. The simulator and the auditor hold the ledger's word against it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use simquota_cloud::ledger::entry::{Cause, Entry, Segment, Subject};
use simquota_shared::ids::{DeviceId, PackageId};
use simquota_shared::message::Kind;
use simquota_shared::units::Epoch;

/// The names of what usage can be late after, as bits: the journal's form.
const LEASE: u64 = 1;
const END: u64 = 2;
const FINAL: u64 = 4;

/// An epoch remembers so many stretches of lapsed grants.
const LAPSED_MAX: usize = 16;

/// Positions past `from` up to `to`, and who was to pay for them.
#[derive(Clone, Debug)]
struct Stretch {
    from: u64,
    to: u64,
    package: Option<PackageId>,
}

/// What was said to one epoch of a device.
#[derive(Clone, Debug, Default)]
struct Said {
    charged: u64,
    ceiling: u64,
    lease_until: u64,
    decided: bool,
    done: bool,
    set_aside: Vec<Stretch>,
    lapsed: VecDeque<Stretch>,
}

impl Said {
    /// Sets aside one segment after the other from the end of what is set aside.
    fn append(&mut self, segments: &[Segment]) {
        for segment in segments {
            let from = self
                .set_aside
                .last()
                .map_or(self.charged, |stretch| stretch.to);
            let to = from + segment.octets.value();
            match self.set_aside.last_mut() {
                Some(last) if last.package == segment.package => last.to = to,
                _ => self.set_aside.push(Stretch {
                    from,
                    to,
                    package: segment.package.clone(),
                }),
            }
        }
    }

    /// Only the first octets stay set aside.
    fn keep(&mut self, octets: u64) {
        let end = self.charged + octets;
        self.set_aside.retain(|stretch| stretch.from < end);
        if let Some(last) = self.set_aside.last_mut() {
            last.to = last.to.min(end);
        }
    }

    fn charge(&mut self, to: u64) {
        self.charged = to;
        self.set_aside.retain(|stretch| stretch.to > to);
        for stretch in &mut self.set_aside {
            stretch.from = stretch.from.max(to);
        }
        self.lapsed.retain(|stretch| stretch.to > to);
    }

    fn lapse(&mut self) {
        let gone = std::mem::take(&mut self.set_aside);
        self.lapsed
            .extend(gone.into_iter().filter(|stretch| stretch.package.is_some()));
        while self.lapsed.len() > LAPSED_MAX {
            self.lapsed.pop_front();
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Package {
    until: Option<u64>,
    ended: bool,
}

/// Follows a journal.
#[derive(Clone, Debug, Default)]
pub struct Lateness {
    said: BTreeMap<(DeviceId, Epoch), Said>,
    packages: BTreeMap<PackageId, Package>,
}

impl Lateness {
    /// Follows an entry; says what is wrong with it.
    #[must_use]
    pub fn follow(&mut self, entry: &Entry) -> Option<String> {
        match &entry.cause {
            Cause::PackageBought(bought) => {
                let package = self.packages.entry(bought.package.clone()).or_default();
                package.until = bought.until.map(|until| until.value());
            }
            Cause::PackageBegan(began) => {
                let package = self.packages.entry(began.package.clone()).or_default();
                package.until = began.until.map(|until| until.value());
            }
            Cause::PackageEnded(ended) => {
                self.packages
                    .entry(ended.package.clone())
                    .or_default()
                    .ended = true;
            }
            _ => {}
        }
        let Subject::Device(device) = &entry.subject else {
            return None;
        };
        let of = |epoch: Epoch| (device.clone(), epoch);
        match &entry.cause {
            Cause::Credit(credit) => {
                let said = self.said.entry(of(credit.epoch)).or_default();
                said.keep(credit.kept.value());
                said.append(&credit.appended);
                said.ceiling = credit.ceiling.value();
                said.lease_until = credit.lease_until.value();
                said.decided = true;
                said.done = credit.kind == Kind::Final;
            }
            Cause::Pushed(pushed) => {
                let said = self.said.entry(of(pushed.epoch)).or_default();
                said.append(&pushed.appended);
                said.ceiling = pushed.ceiling.value();
            }
            Cause::Covered(covered) => {
                let said = self.said.entry(of(covered.epoch)).or_default();
                said.set_aside.clear();
                said.append(&covered.segments);
            }
            Cause::Usage(usage) => {
                let said = self.said.get(&of(usage.epoch)).cloned().unwrap_or_default();
                let expected = self.late(&said, usage.total.value(), entry.at.value());
                let booked = usage
                    .late
                    .as_ref()
                    .map_or((0, 0), |late| (late.octets.value(), late.after));
                if expected != booked {
                    return Some(format!(
                        "entry {}: late are (octets, after) {expected:?}, it says {booked:?}; before it {said:?}",
                        entry.number
                    ));
                }
                let said = self.said.entry(of(usage.epoch)).or_default();
                said.charge(usage.total.value());
            }
            Cause::Closed(closed) => {
                let said = self.said.entry(of(closed.epoch)).or_default();
                said.charge(closed.total.value());
                said.set_aside.clear();
                said.ceiling = said.charged;
            }
            Cause::Lapsed(lapsed) => {
                let said = self.said.entry(of(lapsed.epoch)).or_default();
                said.lapse();
                said.ceiling = said.charged;
            }
            _ => {}
        }
        None
    }

    /// Octets that are late, and after what: each piece between two borders is looked at for itself.
    fn late(&self, said: &Said, to: u64, now: u64) -> (u64, u64) {
        if !said.decided {
            return (0, 0);
        }
        let stretches = || said.set_aside.iter().chain(&said.lapsed);
        let mut borders: BTreeSet<u64> = stretches()
            .flat_map(|stretch| [stretch.from, stretch.to])
            .chain([said.charged, said.ceiling, to])
            .collect();
        borders.retain(|border| (said.charged..=to).contains(border));
        let borders: Vec<u64> = borders.into_iter().collect();
        let (mut octets, mut after) = (0, 0);
        for (from, end) in borders.iter().zip(borders.iter().skip(1)) {
            let holds = |stretch: &&Stretch| stretch.from <= *from && *end <= stretch.to;
            let over = |stretch: &Stretch| {
                let package = stretch.package.as_ref();
                let package = package.and_then(|package| self.packages.get(package));
                package.is_some_and(|package| {
                    package.ended || package.until.is_some_and(|until| until <= now)
                })
            };
            let mut why = 0;
            if now >= said.lease_until || said.lapsed.iter().any(|stretch| holds(&stretch)) {
                why |= LEASE;
            }
            if stretches().filter(holds).any(over) {
                why |= END;
            }
            if said.done && *from >= said.ceiling {
                why |= FINAL;
            }
            if why > 0 {
                octets += end - from;
                after |= why;
            }
        }
        (octets, after)
    }
}
