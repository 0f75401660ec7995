//! Ledger operations a second: grants and debits of ten thousand devices, decided, journalled and synced.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use serde_cbor::Value as Cbor;
use serde_json::{Value, json};
use simquota_cloud::charging::{DeviceRequest, Rules, Turn};
use simquota_cloud::io::store::Store;
use simquota_cloud::ledger::Ledger;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, FleetId, Iccid, Text, ZoneId};
use simquota_shared::message::{
    CreditRequest, FleetCommand, Kind, Reason, RegisterRequest, UsageBatch,
};
use simquota_shared::units::{Boot, Epoch, Octets, RequestNumber, Seq, UnixMillis};

use super::{ROUNDS, folder, median};

const DEVICES: usize = 10_000;
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const BATCHES: [usize; 3] = [1, 100, 1_000];

struct Books {
    ledger: Ledger,
    store: Store,
    rules: Rules,
    devices: Vec<(DeviceId, Iccid, u64)>,
    turn: usize,
}

pub(super) fn measure(round: Duration) -> anyhow::Result<Value> {
    let folder = folder()?;
    eprintln!("ledger: registering {DEVICES} devices …");
    let mut books = Books::open(folder.path())?;
    let mut results = Vec::new();
    println!("\nLEDGER, {DEVICES} devices, grants and debits in turn");
    println!(
        "{:>10} {:>14} {:>14} {:>7} {:>12}",
        "per fsync", "operations/s", "bare append/s", "ratio", "octets/op"
    );
    for batch in BATCHES {
        let (mut ours, mut bare, mut size) = (Vec::new(), Vec::new(), 0.0);
        for _ in 0..ROUNDS {
            let (rate, octets) = books.run(batch, round)?;
            size = octets;
            ours.push(rate);
            bare.push(append(folder.path(), batch, octets, round)?);
        }
        let (ours, bare) = (median(ours), median(bare));
        let ratio = ours / bare;
        println!("{batch:>10} {ours:>14.0} {bare:>14.0} {ratio:>7.2} {size:>12.0}");
        results.push(json!({
            "per_fsync": batch, "ops_per_s": ours, "bare_per_s": bare, "octets_per_op": size,
        }));
    }
    Ok(Value::Array(results))
}

/// As many octets for an operation, in one write and one fdatasync for a batch.
fn append(
    folder: &std::path::Path,
    batch: usize,
    octets: f64,
    round: Duration,
) -> anyhow::Result<f64> {
    let mut file = File::create(folder.join("bare"))?;
    let blob = vec![0x5a_u8; (octets * batch as f64) as usize];
    let (began, mut done) = (Instant::now(), 0_u64);
    while began.elapsed() < round {
        file.write_all(&blob)?;
        file.sync_data()?;
        done += batch as u64;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

fn parsed<T: std::str::FromStr>(text: &str) -> anyhow::Result<T> {
    text.parse().map_err(|_| anyhow!("'{text}' is not an id"))
}

impl Books {
    fn open(folder: &std::path::Path) -> anyhow::Result<Self> {
        let mut books = Self {
            ledger: Ledger::default(),
            store: Store::open(&folder.join("ledger"))?,
            rules: Rules::default(),
            devices: Vec::new(),
            turn: 0,
        };
        let mut turn = Turn::new(&mut books.ledger, &books.rules, NOW);
        turn.bootstrap_admin(&parsed("admin")?)?;
        books.store.commit(&std::mem::take(&mut turn.entries))?;
        let text = |text: &str| Cbor::Text(text.to_owned());
        books.order(None, "fleet-create", &[("fleet", text("f"))])?;
        let count = Cbor::Integer(i128::try_from(DEVICES)?);
        let enrolment = [
            ("enrolment", text("b")),
            ("fleet", text("f")),
            ("devices", count),
        ];
        books.order(None, "enrolment-create", &enrolment)?;
        for chunk in (0..DEVICES).collect::<Vec<_>>().chunks(500) {
            let sims = chunk.iter().map(|n| {
                Cbor::Array(vec![
                    Cbor::Text(format!("{n:019}")),
                    Cbor::Text(format!("{n:015}")),
                    text("operator"),
                    Cbor::Array(vec![text("home")]),
                    text("iot"),
                ])
            });
            books.order(None, "sim-import", &[("sims", Cbor::Array(sims.collect()))])?;
        }
        for n in 0..DEVICES {
            books.admit(n)?;
        }
        Ok(books)
    }

    /// Registers a device and buys it a package.
    fn admit(&mut self, n: usize) -> anyhow::Result<()> {
        let id: DeviceId = parsed(&format!("d-{n}"))?;
        let iccid: Iccid = parsed(&format!("{n:019}"))?;
        let request = RegisterRequest {
            epoch: Epoch(1),
            boot: Boot(1),
            serial: Text::clipped("s"),
            model: Text::clipped("m"),
            firmware: Text::clipped("1"),
            capabilities: Vec::new(),
            iccid: Some(iccid.clone()),
            closes: None,
        };
        let mut turn = Turn::new(&mut self.ledger, &self.rules, NOW);
        turn.device(&id, &Kid::first(&"b"), DeviceRequest::Register(request))?;
        let entries = std::mem::take(&mut turn.entries);
        self.store.commit(&entries)?;
        let package = [
            ("device", Cbor::Text(id.to_string())),
            ("volume", Cbor::Integer(1 << 40)),
        ];
        self.order(Some("f"), "package-buy", &package)?;
        self.devices.push((id, iccid, 0));
        Ok(())
    }

    fn order(
        &mut self,
        fleet: Option<&str>,
        name: &str,
        args: &[(&str, Cbor)],
    ) -> anyhow::Result<()> {
        let fleet: Option<FleetId> = fleet.map(parsed).transpose()?;
        let args = args
            .iter()
            .map(|(key, value)| (Cbor::Text((*key).to_owned()), value.clone()));
        let command = FleetCommand {
            id: parsed(&format!("c-{}", self.ledger.last))?,
            expires: UnixMillis(u64::MAX),
            expected: None,
            dry: false,
            name: Text::clipped(name),
            args: Cbor::Map(args.collect()),
        };
        let mut turn = Turn::new(&mut self.ledger, &self.rules, NOW);
        turn.command(fleet.as_ref(), &Kid::first(&"admin"), &command)?;
        let entries = std::mem::take(&mut turn.entries);
        Ok(self.store.commit(&entries)?)
    }

    /// Operations a second, and the journal's octets for one.
    fn run(&mut self, batch: usize, round: Duration) -> anyhow::Result<(f64, f64)> {
        let (mut done, mut written) = (0_u64, 0_usize);
        let began = Instant::now();
        while began.elapsed() < round {
            let mut turn = Turn::new(&mut self.ledger, &self.rules, NOW);
            for _ in 0..batch {
                self.turn += 1;
                // A stride that is prime to the count: neighbours in a batch are not neighbours in a map.
                let at = (self.turn / 2).wrapping_mul(7_919) % self.devices.len();
                let (id, iccid, used) = self.devices.get_mut(at).context("a device")?;
                let request = next(iccid, used, self.turn.is_multiple_of(2));
                turn.device(id, &Kid::first(&"b"), request)?;
            }
            let entries = std::mem::take(&mut turn.entries);
            // The last two stand for all: a grant and a debit. Encoding every entry again would be measured too.
            let sample = entries
                .get(entries.len().saturating_sub(2)..)
                .unwrap_or_default();
            let octets = simquota_shared::codec::encode(&sample)?.len();
            written += octets * entries.len() / sample.len().max(1);
            self.store.commit(&entries)?;
            done += batch as u64;
        }
        let rate = done as f64 / began.elapsed().as_secs_f64();
        Ok((rate, written as f64 / done.max(1) as f64))
    }
}

/// A device's next step: it asks, then uses and reports 1,000 octets.
fn next(iccid: &Iccid, used: &mut u64, ask: bool) -> DeviceRequest {
    let step = *used / 1000;
    if ask {
        return DeviceRequest::Credit(CreditRequest {
            epoch: Epoch(1),
            number: RequestNumber(step + 1),
            kind: if step == 0 {
                Kind::Initial
            } else {
                Kind::Update
            },
            used: Octets(*used),
            want: Octets(100_000),
            reason: Reason::THRESHOLD,
            zone: ZoneId::home(),
            held: None,
        });
    }
    *used += 1000;
    DeviceRequest::Usage(UsageBatch {
        epoch: Epoch(1),
        boot: Boot(1),
        iccid: iccid.clone(),
        zone: ZoneId::home(),
        first: Seq(step + 1),
        clock: 0,
        t0: step,
        interval_s: 60,
        total: Octets(*used),
        dt: Vec::new(),
        up: vec![300],
        down: vec![700],
        own: Vec::new(),
        flags: Vec::new(),
        spans: Vec::new(),
        unsure: Vec::new(),
    })
}
