//! Usage: debits by position on the used-total axis. Only usage samples debit (DESIGN section 4).
//!
//! **Totals decide, sums only check.** The debit is always (used total after the last new row) - charged. The
//! sum of the new rows must agree, or the batch is refused as damaged, except for a row that the mark falls into.

use std::collections::BTreeMap;

use simquota_shared::code::Code;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, PackageId, ZoneId};
use simquota_shared::message::usage::{ROWS_MAX, flag};
use simquota_shared::message::{Status, UsageAck, UsageBatch};
use simquota_shared::topic::Down;
use simquota_shared::units::{Epoch, Octets, Seq};

use super::shelf::Shelf;
use super::{Turn, Verdict, encoded};
use crate::ledger::Broken;
use crate::ledger::account::{Account, Move, Pocket, Slot};
use crate::ledger::device::{Axis, Device};
use crate::ledger::entry::{Cause, Segment, Subject, Usage, reason};

/// What is new in a batch, once its columns fit each other.
struct News {
    first: Seq,
    last: Seq,
    up: u64,
    down: u64,
    own: u64,
    flags: u64,
    unsure: u64,
}

/// What a batch is, seen from the mark.
enum Batch {
    /// Everything is in the ledger already.
    Repeat,
    /// Samples are missing before it: the device goes back to the mark.
    Gap,
    /// There is something new.
    New(News),
}

impl Turn<'_> {
    pub(super) fn usage(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        batch: &UsageBatch,
    ) -> Result<Verdict, Broken> {
        let found = self
            .ledger
            .devices
            .get(id)
            .and_then(|device| device.epochs.get(&batch.epoch).map(|axis| (device, axis)));
        let Some((device, axis)) = found else {
            self.acknowledge(id, kid, batch, Code::UNKNOWN_EPOCH, Seq::ZERO, Octets::ZERO)?;
            return Ok(Verdict::refused(
                "unknown-epoch",
                format!("device {id} has not registered epoch {}", batch.epoch),
            ));
        };
        let (mark, charged) = (axis.mark, axis.charged);
        if axis.closed {
            // Its total was charged when it was closed: the samples are settled, whatever they say.
            let last = last_number(batch).unwrap_or(mark);
            self.acknowledge(id, kid, batch, Code::SUCCESS, last, charged)?;
            return Ok(Verdict::Done);
        }
        let news = match compare(batch, axis) {
            Ok(Batch::Repeat) => {
                self.acknowledge(id, kid, batch, Code::SUCCESS, mark, charged)?;
                return Ok(Verdict::Done);
            }
            Ok(Batch::Gap) => {
                self.acknowledge(id, kid, batch, Code::SUCCESS, mark, charged)?;
                let first = batch.first;
                let words = format!("samples after {mark} are missing before {first}");
                self.suspect(id, reason::GAP, &words)?;
                return Ok(Verdict::Done);
            }
            Ok(Batch::New(news)) => news,
            Err(why) => {
                self.acknowledge(id, kid, batch, Code::INVALID_VALUE, mark, charged)?;
                return Ok(Verdict::refused(
                    "damaged-usage",
                    format!("device {id}, batch from {}: {why}", batch.first),
                ));
            }
        };
        let own = if self.policy_of(device).own_charged {
            0
        } else {
            news.own
        };
        let (moves, from_segments) =
            self.payments(id, device, axis, batch.total, &batch.zone, own)?;
        let cause = Cause::Usage(Usage {
            epoch: batch.epoch,
            boot: batch.boot,
            first: news.first,
            last: news.last,
            total: batch.total,
            up: Octets(news.up),
            down: Octets(news.down),
            flags: news.flags,
            zone: batch.zone.clone(),
            ended_s: ended(batch),
            from_segments,
            unsure: Octets(news.unsure),
            late: self.late(axis, batch.total),
        });
        self.record(Subject::Device(id.clone()), cause, moves)?;
        self.unsure(id, batch, &news)?;
        self.acknowledge(id, kid, batch, Code::SUCCESS, news.last, batch.total)?;
        if own > 0 {
            self.pool_gained(id)?;
        }
        Ok(Verdict::Done)
    }

    /// Takes note of what new samples say of themselves.
    fn unsure(&mut self, id: &DeviceId, batch: &UsageBatch, news: &News) -> Result<(), Broken> {
        let News {
            first,
            last,
            unsure,
            ..
        } = news;
        if batch.clock == 0 || news.flags & flag::CLOCK_UNSURE != 0 {
            let words = format!("samples {first} to {last} have times that are not to be trusted");
            self.suspect(id, reason::CLOCK_UNSURE, &words)?;
        }
        if *unsure > 0 {
            let words = format!(
                "{unsure} octets may have been used before a power cut, and are not charged"
            );
            self.suspect(id, reason::UNSURE_OCTETS, &words)?;
        }
        Ok(())
    }

    /// A status never changes the ledger (DESIGN section 11, number 9). It is answered with the mark, or with the
    /// news that its epoch is not in force: after a restored backup a silent device would otherwise never find out.
    pub(super) fn status(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        status: &Status,
    ) -> Result<Verdict, Broken> {
        if status.online {
            self.say_mark(id, kid, status.epoch)?;
        }
        Ok(Verdict::Done)
    }

    /// Tells a device where the ledger stands with an epoch of it.
    pub(super) fn say_mark(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        epoch: Epoch,
    ) -> Result<(), Broken> {
        let device = self.ledger.devices.get(id);
        let axis = device.and_then(|device| device.epochs.get(&epoch));
        let code = match (device, axis) {
            (Some(device), _) if device.epoch == epoch => Code::SUCCESS,
            (_, Some(_)) => Code::EPOCH_SUPERSEDED,
            (_, None) => Code::UNKNOWN_EPOCH,
        };
        let ack = UsageAck {
            epoch,
            code,
            mark: axis.map_or(Seq::ZERO, |axis| axis.mark),
            total: axis.map_or(Octets::ZERO, |axis| axis.charged),
            first: Seq::ZERO,
            retry_s: None,
            now: self.now,
        };
        self.say(id, kid, Down::Usage, encoded(&ack)?, false);
        Ok(())
    }

    fn acknowledge(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        batch: &UsageBatch,
        code: Code,
        mark: Seq,
        total: Octets,
    ) -> Result<(), Broken> {
        let ack = UsageAck {
            epoch: batch.epoch,
            code,
            mark,
            total,
            first: batch.first,
            retry_s: None,
            now: self.now,
        };
        // Several batches of one device in a commit get one acknowledgement: the last says it all.
        let payload = encoded(&ack)?;
        let topic = simquota_shared::topic::Topic::Down(id.clone(), Down::Usage);
        if code.is_success()
            && let Some(earlier) = self.acknowledged.get(&(id.clone(), batch.epoch)).copied()
            && let Some(outgoing) = self.outgoing.get_mut(earlier)
            && outgoing.topic == topic
        {
            outgoing.payload = payload;
            return Ok(());
        }
        if code.is_success() {
            self.acknowledged
                .insert((id.clone(), batch.epoch), self.outgoing.len());
        }
        self.say(id, kid, Down::Usage, payload, false);
        Ok(())
    }

    /// Who pays for the octets from the charged position to `to`, and how many of them leave segments.
    ///
    /// By position: segments in order; past them what a lapsed grant had reserved there; then available packages
    /// (overrun); then debt. `own` octets of the agent are not charged: they are taken off the end.
    pub(super) fn payments(
        &self,
        id: &DeviceId,
        device: &Device,
        axis: &Axis,
        to: Octets,
        zone: &ZoneId,
        own: u64,
    ) -> Result<(Vec<Move>, Octets), Broken> {
        let debit = to
            .checked_sub(axis.charged.value())
            .ok_or(Broken::Balance("a debit goes back"))?;
        let backed = u64::try_from(axis.backed()).unwrap_or(u64::MAX);
        let from_segments = Octets(debit.value().min(backed));
        let mut taken = axis.clone().pop_front(from_segments);
        let mut beyond = debit.value() - from_segments.value();
        let mut sums = Sums::default();

        let spared = own.min(debit.value());
        let spared_beyond = spared.min(beyond);
        beyond -= spared_beyond;
        sums.add(
            device_account(id, Slot::Own),
            device_account(id, Slot::Control),
            spared,
        );
        spare(&mut taken, spared - spared_beyond, |package, octets| {
            let back = self.returns_to(package);
            sums.add(
                pocket(package, Pocket::Reserved),
                pocket(package, back),
                octets,
            );
        });

        for Segment { package, octets } in &taken {
            match package {
                Some(package) => sums.add(
                    pocket(package, Pocket::Reserved),
                    pocket(package, Pocket::Used),
                    octets.value(),
                ),
                // Where no package had volume at the reservation, the octets count as beyond the segments.
                None => beyond += octets.value(),
            }
        }
        let from = axis
            .charged
            .checked_add(from_segments.value())
            .unwrap_or(to);
        let mut shelf = Shelf::of(self.ledger, id, &device.fleet, zone, self.now);
        beyond = self.pay_late(axis, (from, to), beyond, &mut shelf, &mut sums);
        for segment in shelf.take_any(beyond) {
            if let Some(package) = &segment.package {
                sums.add(
                    pocket(package, Pocket::Available),
                    pocket(package, Pocket::Used),
                    segment.octets.value(),
                );
                beyond -= segment.octets.value();
            }
        }
        sums.add(
            device_account(id, Slot::Overdraft),
            device_account(id, Slot::Debt),
            beyond,
        );
        Ok((sums.moves(), from_segments))
    }

    /// Octets at a position that a lapsed grant had reserved are taken from that package first.
    fn pay_late(
        &self,
        axis: &Axis,
        (from, to): (Octets, Octets),
        mut beyond: u64,
        shelf: &mut Shelf,
        sums: &mut Sums,
    ) -> u64 {
        for late in &axis.late {
            let overlap = late.to.min(to).beyond(late.from.max(from)).min(beyond);
            let Some(package) = self.ledger.packages.get(&late.package) else {
                continue;
            };
            let available = shelf.take_from(&late.package, overlap);
            let expired = (overlap - available)
                .min(package.balances.expired.value())
                .min(sums.left_in(&late.package, package.balances.expired.value()));
            let used = pocket(&late.package, Pocket::Used);
            sums.add(
                pocket(&late.package, Pocket::Available),
                used.clone(),
                available,
            );
            sums.add(pocket(&late.package, Pocket::Expired), used, expired);
            beyond -= available + expired;
        }
        beyond
    }

    pub(super) fn returns_to(&self, package: &PackageId) -> Pocket {
        self.ledger
            .packages
            .get(package)
            .map_or(Pocket::Available, |package| package.returns_to())
    }
}

/// Takes `octets` off the end of what was taken, telling whose they were.
fn spare(taken: &mut Vec<Segment>, mut octets: u64, mut give_back: impl FnMut(&PackageId, u64)) {
    while octets > 0 {
        let Some(last) = taken.last_mut() else { return };
        let part = last.octets.value().min(octets);
        if let Some(package) = &last.package {
            give_back(package, part);
        }
        octets -= part;
        if part == last.octets.value() {
            taken.pop();
        } else {
            last.octets = Octets(last.octets.value() - part);
        }
    }
}

pub(super) fn pocket(package: &PackageId, pocket: Pocket) -> Account {
    Account::Package(package.clone(), pocket)
}

pub(super) fn device_account(id: &DeviceId, slot: Slot) -> Account {
    Account::Device(id.clone(), slot)
}

/// Movements summed by their accounts, in account order.
#[derive(Default)]
pub(super) struct Sums(BTreeMap<(Account, Account), u64>);

impl Sums {
    pub(super) fn add(&mut self, from: Account, to: Account, octets: u64) {
        if octets > 0 && from != to {
            *self.0.entry((from, to)).or_default() += octets;
        }
    }

    fn left_in(&self, package: &PackageId, balance: u64) -> u64 {
        let key = (
            pocket(package, Pocket::Expired),
            pocket(package, Pocket::Used),
        );
        balance - self.0.get(&key).copied().unwrap_or_default().min(balance)
    }

    /// Releases come first: the same decision may set aside again what it just released.
    pub(super) fn moves(self) -> Vec<Move> {
        let mut moves: Vec<Move> = self
            .0
            .into_iter()
            .map(|((from, to), octets)| Move {
                from,
                to,
                octets: Octets(octets),
            })
            .collect();
        moves.sort_by_key(|movement| {
            !matches!(movement.from, Account::Package(_, Pocket::Reserved))
        });
        moves
    }
}

fn last_number(batch: &UsageBatch) -> Option<Seq> {
    let rows = u64::try_from(batch.up.len()).ok()?;
    let merged = batch.spans.iter().try_fold(0u64, |sum, (_, count)| {
        sum.checked_add(count.checked_sub(1)?)
    })?;
    batch
        .first
        .checked_add(rows.checked_add(merged)?.checked_sub(1)?)
}

fn ended(batch: &UsageBatch) -> Option<u64> {
    if batch.clock != 1 {
        return None;
    }
    let mut at = i128::from(batch.t0);
    for step in &batch.dt {
        at += i128::from(*step) + i128::from(batch.interval_s);
    }
    u64::try_from(at).ok()
}

/// Checks the columns against each other and against the mark.
fn compare(batch: &UsageBatch, axis: &Axis) -> Result<Batch, String> {
    let rows = batch.up.len();
    if rows == 0 || rows > ROWS_MAX {
        return Err(format!("{rows} rows, not 1 to {ROWS_MAX}"));
    }
    if batch.down.len() != rows || batch.dt.len() + 1 != rows {
        return Err("the columns differ in length".to_owned());
    }
    if !batch.own.is_empty() && batch.own.len() != rows {
        return Err("the column of own octets differs in length".to_owned());
    }
    let counts = sparse(&batch.spans, rows, 1)?;
    let flags = sparse(&batch.flags, rows, 0)?;
    let unsure = sparse(&batch.unsure, rows, 0)?;
    if batch.first == Seq::ZERO || counts.contains(&0) {
        return Err("numbers begin at 1, and a row is at least one sample".to_owned());
    }
    let overflow = || "numbers or octets overflow".to_owned();

    let mut news: Option<News> = None;
    // The used total before the first row that is wholly new, counted back from the total.
    let mut sum: u64 = 0;
    let mut straddle: Option<u64> = None;
    let mut number = batch.first.value();
    let columns = batch
        .up
        .iter()
        .zip(&batch.down)
        .zip(&counts)
        .zip(&flags)
        .zip(&unsure);
    for (row, ((((up, down), count), flags), unsure)) in columns.enumerate() {
        let last = number.checked_add(count - 1).ok_or_else(overflow)?;
        let octets = up.checked_add(*down).ok_or_else(overflow)?;
        let own = batch.own.get(row).copied().unwrap_or_default();
        if own > octets {
            return Err(format!("row {row} has more own octets than octets"));
        }
        if last > axis.mark.value() {
            if number <= axis.mark.value() {
                straddle = Some(octets);
            } else {
                sum = sum.checked_add(octets).ok_or_else(overflow)?;
            }
            let so_far = news.get_or_insert(News {
                first: Seq(number.max(axis.mark.value() + 1)),
                last: Seq(last),
                up: 0,
                down: 0,
                own: 0,
                flags: 0,
                unsure: 0,
            });
            so_far.last = Seq(last);
            so_far.up = so_far.up.checked_add(*up).ok_or_else(overflow)?;
            so_far.down = so_far.down.checked_add(*down).ok_or_else(overflow)?;
            so_far.own = so_far.own.checked_add(own).ok_or_else(overflow)?;
            so_far.flags |= flags & flag::ALL;
            so_far.unsure = so_far.unsure.checked_add(*unsure).ok_or_else(overflow)?;
        }
        number = last.checked_add(1).ok_or_else(overflow)?;
    }
    let Some(news) = news else {
        return Ok(Batch::Repeat);
    };
    if batch.first.value() > axis.mark.value() + 1 {
        return Ok(Batch::Gap);
    }
    let debit = batch
        .total
        .checked_sub(axis.charged.value())
        .ok_or_else(|| {
            format!(
                "the total {} is below what is charged, {}",
                batch.total, axis.charged
            )
        })?
        .value();
    let fits = match straddle {
        None => debit == sum,
        Some(octets) => debit >= sum && debit - sum <= octets,
    };
    if !fits {
        return Err(format!(
            "the total says {debit} new octets, the rows say {sum}"
        ));
    }
    Ok(Batch::New(news))
}

/// A sparse column as a full one. Row numbers must rise.
fn sparse(column: &[(u64, u64)], rows: usize, default: u64) -> Result<Vec<u64>, String> {
    let mut full = vec![default; rows];
    let mut next = 0;
    for (row, value) in column {
        let index = usize::try_from(*row).map_err(|_| "a row number is too large".to_owned())?;
        if index < next {
            return Err("row numbers do not rise in a sparse column".to_owned());
        }
        *full
            .get_mut(index)
            .ok_or_else(|| format!("row {row} does not exist"))? = *value;
        next = index + 1;
    }
    Ok(full)
}
