//! Fleets, SIMs, packages and devices of a benchmark, made by the real commands and decisions, and what the devices say.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde_cbor::Value;
use simquota_cloud::charging::{DeviceRequest, Rules, SIMS_MAX, Turn, Verdict};
use simquota_cloud::io::clock;
use simquota_cloud::io::keys::ADMIN;
use simquota_cloud::ledger::Ledger;
use simquota_cloud::ledger::entry::Entry;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, FleetId, Iccid, KeyId, Text, ZoneId};
use simquota_shared::message::{
    CreditRequest, FleetCommand, Kind, Reason, RegisterRequest, UsageBatch,
};
use simquota_shared::units::{Boot, Epoch, Octets, RequestNumber, Seq, UnixMillis};

/// Samples in a report.
pub(super) const SAMPLES: u64 = 10;
/// Devices of a fleet; each fleet has a pool, and every second device a package of its own besides.
const FLEET_DEVICES: usize = 1000;
/// Enough for any run.
const VOLUME: u64 = 1_000_000_000_000_000;
const UP_MAX: u64 = 2_000;
const DOWN_MAX: u64 = 20_000;
/// About what four reports use up.
const WANT: u64 = SAMPLES * (UP_MAX + DOWN_MAX) * 2;
/// Larger than any grant: the first one is the largest that policy allows.
const FIRST_WANT: u64 = 1_000_000_000;
const INTERVAL_S: u64 = 60;
const STARTED_S: u64 = 1_800_000_000;
/// Operations in one commit while the world is made.
const COMMIT: usize = 500;

/// Numbers that look random and are the same in each run (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `end` - 1; 0 when there is none.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.roll().checked_rem(end).unwrap_or(0)
    }

    pub(super) fn octet(&mut self) -> u8 {
        self.roll().to_le_bytes().first().copied().unwrap_or(0)
    }
}

/// A device, as far as it takes to say what it would.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) id: DeviceId,
    /// Under which key it speaks.
    pub(super) kid: Kid,
    iccid: Iccid,
    fleet: FleetId,
    seq: u64,
    total: u64,
    requests: u64,
    dice: Dice,
}

impl Device {
    fn new(number: usize) -> anyhow::Result<Device> {
        let fleet = number / FLEET_DEVICES;
        Ok(Device {
            id: format!("device-{number:06}").parse()?,
            kid: Kid::first(&enrolment(fleet)),
            iccid: iccid(number).parse()?,
            fleet: fleet_name(fleet).parse()?,
            seq: 0,
            total: 0,
            requests: 0,
            dice: Dice::new(number as u64),
        })
    }

    fn registration(&self) -> RegisterRequest {
        RegisterRequest {
            epoch: Epoch(1),
            boot: Boot(1),
            serial: Text::clipped(&format!("serial-{}", self.id)),
            model: Text::clipped("tracker-4"),
            firmware: Text::clipped("1.0.0"),
            capabilities: Vec::new(),
            iccid: Some(self.iccid.clone()),
            closes: None,
        }
    }

    /// The next usage report.
    pub(super) fn report(&mut self) -> UsageBatch {
        let first = self.seq + 1;
        self.seq += SAMPLES;
        let mut column =
            |most: u64| -> Vec<u64> { (0..SAMPLES).map(|_| self.dice.below(most)).collect() };
        let (up, down) = (column(UP_MAX), column(DOWN_MAX));
        self.total += up.iter().chain(&down).sum::<u64>();
        UsageBatch {
            epoch: Epoch(1),
            boot: Boot(1),
            iccid: self.iccid.clone(),
            zone: ZoneId::home(),
            first: Seq(first),
            clock: 1,
            t0: STARTED_S + first * INTERVAL_S,
            interval_s: INTERVAL_S,
            total: Octets(self.total),
            dt: (1..SAMPLES).map(|_| 0).collect(),
            up,
            down,
            own: Vec::new(),
            flags: Vec::new(),
            spans: Vec::new(),
            unsure: Vec::new(),
        }
    }

    fn ask(&mut self, kind: Kind, reason: Reason, want: u64) -> CreditRequest {
        self.requests += 1;
        CreditRequest {
            epoch: Epoch(1),
            number: RequestNumber(self.requests),
            kind,
            used: Octets(self.total),
            want: Octets(want),
            reason,
            zone: ZoneId::home(),
            held: None,
        }
    }

    /// The next request for more quota.
    pub(super) fn update(&mut self) -> CreditRequest {
        self.ask(Kind::Update, Reason::THRESHOLD, WANT)
    }
}

pub(super) fn enrolment(fleet: usize) -> String {
    format!("batch-{fleet}")
}

/// How many fleets, and enrolment keys, so many devices have.
pub(super) fn fleets(devices: usize) -> usize {
    devices.div_ceil(FLEET_DEVICES)
}

fn fleet_name(fleet: usize) -> String {
    format!("fleet-{fleet}")
}

fn iccid(number: usize) -> String {
    format!("8988{number:015}")
}

fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

fn arguments<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    let pairs = pairs.map(|(name, value)| (text(name), value));
    Value::Map(BTreeMap::from(pairs))
}

/// Makes a world, and hands the entries of each step to `commit`.
pub(super) struct Maker<'a, C> {
    pub(super) ledger: &'a mut Ledger,
    pub(super) rules: &'a Rules,
    pub(super) commit: C,
    commands: u64,
}

impl<'a, C: FnMut(&[Entry]) -> anyhow::Result<()>> Maker<'a, C> {
    pub(super) fn new(ledger: &'a mut Ledger, rules: &'a Rules, commit: C) -> Self {
        Maker {
            ledger,
            rules,
            commit,
            commands: 0,
        }
    }

    /// Fleets with pools, SIMs, keys, and devices that have registered and hold a first grant.
    pub(super) fn make(&mut self, count: usize) -> anyhow::Result<Vec<Device>> {
        let admin: KeyId = ADMIN.parse()?;
        self.turn(|turn| Ok(turn.bootstrap_admin(&admin)?))?;
        for fleet in 0..fleets(count) {
            self.make_fleet(fleet)?;
        }
        let numbers: Vec<usize> = (0..count).collect();
        for some in numbers.chunks(SIMS_MAX) {
            let sims = some.iter().map(|number| sim(*number)).collect();
            let sims = arguments([("sims", Value::Array(sims))]);
            self.order(&[(None, "sim-import", sims)])?;
        }
        let mut devices: Vec<Device> = numbers
            .iter()
            .map(|number| Device::new(*number))
            .collect::<anyhow::Result<_>>()?;
        self.each(&mut devices, |device| {
            DeviceRequest::Register(device.registration())
        })?;
        for some in devices.chunks(COMMIT) {
            let orders: Vec<_> = some.iter().step_by(2).map(own_package).collect();
            self.order(&orders)?;
        }
        self.each(&mut devices, |device| {
            DeviceRequest::Credit(device.ask(Kind::Initial, Reason::BOOT, FIRST_WANT))
        })?;
        Ok(devices)
    }

    fn make_fleet(&mut self, fleet: usize) -> anyhow::Result<()> {
        let name = text(fleet_name(fleet));
        let id = fleet_name(fleet).parse()?;
        let create = arguments([("fleet", name.clone())]);
        let enrol = arguments([
            ("enrolment", text(enrolment(fleet))),
            ("fleet", name),
            ("devices", Value::Integer(FLEET_DEVICES as i128)),
        ]);
        let buy = arguments([("volume", Value::Integer(i128::from(VOLUME)))]);
        self.order(&[
            (None, "fleet-create", create),
            (None, "enrolment-create", enrol),
            (Some(id), "package-buy", buy),
        ])
    }

    fn order(&mut self, orders: &[(Option<FleetId>, &str, Value)]) -> anyhow::Result<()> {
        let first = self.commands;
        self.commands += orders.len() as u64;
        self.turn(|turn| {
            for (number, (fleet, name, args)) in (first..).zip(orders) {
                let command = FleetCommand {
                    id: format!("order-{number}").parse()?,
                    expires: UnixMillis(u64::MAX),
                    expected: None,
                    dry: false,
                    name: Text::clipped(name),
                    args: args.clone(),
                };
                done(
                    name,
                    turn.command(fleet.as_ref(), &Kid::first(&ADMIN), &command)?,
                )?;
            }
            Ok(())
        })
    }

    fn each(
        &mut self,
        devices: &mut [Device],
        says: impl Fn(&mut Device) -> DeviceRequest,
    ) -> anyhow::Result<()> {
        for some in devices.chunks_mut(COMMIT) {
            self.turn(|turn| {
                for device in some {
                    let request = says(device);
                    done("a device", turn.device(&device.id, &device.kid, request)?)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn turn(
        &mut self,
        work: impl FnOnce(&mut Turn<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut turn = Turn::new(self.ledger, self.rules, clock::steady());
        work(&mut turn)?;
        let Turn { entries, .. } = turn;
        (self.commit)(&entries)
    }
}

fn sim(number: usize) -> Value {
    Value::Array(vec![
        text(iccid(number)),
        text(format!("90170{number:010}")),
        text("operator"),
        Value::Array(vec![text("home")]),
        text("iot"),
    ])
}

fn own_package(device: &Device) -> (Option<FleetId>, &'static str, Value) {
    let args = arguments([
        ("device", text(&device.id)),
        ("volume", Value::Integer(i128::from(VOLUME))),
    ]);
    (Some(device.fleet.clone()), "package-buy", args)
}

fn done(what: &str, verdict: Verdict) -> anyhow::Result<()> {
    match verdict {
        Verdict::Done => Ok(()),
        Verdict::Refused(refusal) => bail!(
            "{what} was refused ({}: {}); the benchmark's world does not fit the service any more",
            refusal.reason,
            refusal.detail
        ),
        Verdict::Query(_) => bail!("{what} is a question; the benchmark asks none"),
    }
}

/// Octets of the row that these entries make in the journal.
pub(super) fn row_octets(entries: &[Entry]) -> anyhow::Result<usize> {
    let row = serde_cbor::to_vec(&entries).context("entries can't be written; report this")?;
    // The row's key is a number of 8 octets.
    Ok(row.len() + 8)
}
