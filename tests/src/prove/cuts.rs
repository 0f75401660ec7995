//! Power cuts: the disk of the cloud, or of a device, loses what was not synced, at random moments while traffic is
//! metered.
//!
//! The cloud may lose nothing that it promised: afterwards everything that passed is charged, in one epoch. A device
//! may lose what it had not synced yet, at most [`WINDOW`] a cut: its kernel's counter begins anew, so nobody can
//! know of it. It never speaks of what it could still lose, and it charges the rest exactly.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a campaign ends by a panic that says what did not hold"
)]

use std::fs;

use serde::Serialize;
use simquota_edge::io::folder::Folder;
use simquota_edge::io::trace;

use super::dice::Dice;
use super::kills::{await_traffic, settle};
use crate::disk::LoopDisk;
use crate::process::{LIMIT, await_fact};
use crate::world::{Device, World, octets, steady};

/// What a device may lose with its power: `store.sync` as shipped (64 KiB), what passes from one reading of the meter
/// to the next at the trace's rate, twice, and a commit under way.
pub const WINDOW: u64 = 64 * 1024 + 4 * POLL_OCTETS;
/// A tenth of a second at ten times the trace's 25,000 octets a second.
const POLL_OCTETS: u64 = 25_000;
const SPEED: u32 = 10;
const DISK_OCTETS: u64 = 512 * 1024 * 1024;
const FURTHER: u64 = 150_000;
/// Trace seconds that pass from one cut to the next, and more.
const ROUND_S: u64 = 120;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cuts {
    /// Cuts of the cloud's disk.
    pub cloud: u64,
    /// Cuts of a device's disk.
    pub edge: u64,
    /// Octets that really passed.
    pub passed: u64,
    /// Octets durably metered.
    pub metered: u64,
    /// Octets charged.
    pub charged: u64,
    /// Octets lost with a device's power, in all.
    pub unaccounted: u64,
    /// The most in one cut.
    pub unaccounted_max: u64,
}

impl Cuts {
    pub(super) fn add(&mut self, other: &Self) {
        self.cloud += other.cloud;
        self.edge += other.edge;
        self.passed += other.passed;
        self.metered += other.metered;
        self.charged += other.charged;
        self.unaccounted += other.unaccounted;
        self.unaccounted_max = self.unaccounted_max.max(other.unaccounted_max);
    }
}

/// So many cuts of the cloud's disk, in a world of its own.
///
/// # Panics
/// When something did not hold, with what.
#[must_use]
pub fn cloud_campaign(cuts: u64, seed: u64, say: &mut dyn FnMut(&str)) -> Cuts {
    let mut dice = Dice::new(seed);
    let disk = LoopDisk::make(DISK_OCTETS).unwrap();
    let mut world = World::start_at(&disk.path().join("cloud"));
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "10GB"]);
    let trace = steady(cuts * ROUND_S, 20_000);
    let mut devices: Vec<Device> = (0..2)
        .map(|n| world.device(&format!("tracker-{n}"), &trace, SPEED, "2 MB"))
        .collect();
    for device in &mut devices {
        device.start();
    }
    for cut in 1..=cuts {
        let device = &devices[dice.place(2)];
        await_traffic(device, FURTHER, octets(&trace), &mut dice);
        disk.cut().unwrap();
        world.cloud.as_mut().unwrap().kill9().unwrap();
        disk.restore().unwrap();
        // Not accused of anything, and nothing that its guard names is missing.
        world.audit_folder();
        world.start_cloud();
        say(&format!("cuts: {cut} of {cuts}: the cloud's disk"));
    }
    let settled = settle(&world, &mut devices, octets(&trace));
    world.cloud.as_mut().unwrap().terminate().unwrap();
    world.cloud.as_mut().unwrap().wait_exit(LIMIT).unwrap();
    Cuts {
        cloud: cuts,
        passed: settled.passed,
        metered: settled.metered,
        charged: settled.charged,
        ..Cuts::default()
    }
}

/// Waits until a start after the `boots`th is metering under a grant. The status file may be one from before.
fn await_open(device: &Device, boots: u64) {
    device.await_status("is granted", |status| {
        status["boot"].as_u64() > Some(boots) && status["gate_open"] == true
    });
}

/// So many cuts of a device's disk, in a world of its own.
///
/// # Panics
/// When something did not hold, with what.
#[must_use]
pub fn edge_campaign(cuts: u64, seed: u64, say: &mut dyn FnMut(&str)) -> Cuts {
    let mut dice = Dice::new(seed);
    let disk = LoopDisk::make(DISK_OCTETS).unwrap();
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "10GB"]);
    let data = disk.path().join("data");
    // The counter is the kernel's: it is in no disk, and ends with the power.
    let counter = world.folder.path().join("counter");
    let trace = steady(1_000_000, 20_000);
    let mut device = world.device_at(&data, "tracker-0", &trace, SPEED, "2 MB");
    fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink(&counter, Folder::trace_state(&data)).unwrap();
    fs::File::open(&data).unwrap().sync_all().unwrap();
    device.start();
    await_open(&device, 0);
    let mut found = Cuts {
        edge: cuts,
        ..Cuts::default()
    };
    for cut in 1..=cuts {
        // By the counter itself: the status follows the commits, and no cut would ever fall between two of them.
        let further = trace::delivered(&counter).unwrap() + dice.below(FURTHER);
        await_fact(LIMIT, "traffic to go on", || {
            (trace::delivered(&counter).ok()? >= further).then_some(())
        })
        .unwrap();
        disk.cut().unwrap();
        device.process.as_mut().unwrap().kill9().unwrap();
        found.passed += trace::delivered(&counter).unwrap();
        fs::remove_file(&counter).unwrap();
        disk.restore().unwrap();
        let stored = device.stored();
        let used = stored["used"].as_u64().unwrap();
        let charged = world.show(&device)["charged"].as_u64().unwrap();
        assert!(
            charged <= used,
            "charged {charged}, but durable is {stored}"
        );
        let lost = found.passed.checked_sub(used + found.unaccounted).unwrap();
        assert!(lost <= WINDOW, "{lost} octets lost in a cut: {stored}");
        found.unaccounted += lost;
        found.unaccounted_max = found.unaccounted_max.max(lost);
        device.start();
        await_open(&device, stored["boot"].as_u64().unwrap());
        say(&format!(
            "cuts: {cut} of {cuts}: a device's disk, {lost} octets unaccounted"
        ));
    }
    let process = device.process.as_mut().unwrap();
    process.terminate().unwrap();
    process.wait_exit(2 * LIMIT).unwrap();
    found.passed += trace::delivered(&counter).unwrap();
    world.audit();
    let (shown, stored) = (world.show(&device), device.stored());
    found.metered = stored["used"].as_u64().unwrap();
    found.charged = shown["charged"].as_u64().unwrap();
    assert_eq!(found.charged, found.metered, "{shown}\n{stored}");
    assert_eq!(found.passed, found.metered + found.unaccounted, "{stored}");
    assert_eq!(shown["epochs"], 1, "a power cut ends no epoch: {shown}");
    assert_eq!(shown["reserved"], 0, "all was returned: {shown}");
    found
}
