//! Kills at random moments: agents and the cloud by `kill -9`, the broker with its memory lost, while traffic is
//! metered. Afterwards every octet that was durably metered is charged, exactly once.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a campaign ends by a panic that says what did not hold"
)]

use serde::Serialize;

use super::dice::Dice;
use crate::broker::Broker as _;
use crate::process::{LIMIT, await_fact};
use crate::world::{Device, World, octets, steady};

const DEVICES: usize = 3;
/// The next blow falls when some device has metered so much more, or less.
const FURTHER: u64 = 60_000;
/// Trace seconds that pass in a round, and more.
const ROUND_S: u64 = 120;
const SPEED: u32 = 10;
/// For what is left of the traces once all blows have fallen.
const HURRY: &str = "1000";

/// What came of a campaign, or of many.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Kills {
    /// Rounds; in each an agent and the cloud were killed and the broker lost its memory.
    pub rounds: u64,
    /// Octets that really passed.
    pub passed: u64,
    /// Octets durably metered.
    pub metered: u64,
    /// Octets charged.
    pub charged: u64,
}

impl Kills {
    pub(super) fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.passed += other.passed;
        self.metered += other.metered;
        self.charged += other.charged;
    }
}

#[derive(Clone, Copy, Debug)]
enum Blow {
    Agent,
    Cloud,
    Broker,
}

/// Waits until a device has metered a little more, or all of its trace.
pub(super) fn await_traffic(device: &Device, most: u64, all: u64, dice: &mut Dice) {
    let status = device.await_status("has a status", |_| true);
    let used = status["used"].as_u64().unwrap_or(0);
    let further = (used + dice.below(most)).min(all);
    device.await_status("goes on", |status| status["used"].as_u64() >= Some(further));
}

/// So many rounds in a world of its own.
///
/// # Panics
/// When something did not hold, with what.
#[must_use]
pub fn campaign(rounds: u64, seed: u64, say: &mut dyn FnMut(&str)) -> Kills {
    let mut dice = Dice::new(seed);
    let mut world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "10GB"]);
    let trace = steady(rounds * ROUND_S, 20_000);
    let mut devices: Vec<Device> = (0..DEVICES)
        .map(|n| world.device(&format!("tracker-{n}"), &trace, SPEED, "2 MB"))
        .collect();
    for device in &mut devices {
        device.start();
    }
    for device in &devices {
        device.await_status("is granted", |status| status["ceiling"].as_u64() > Some(0));
    }
    for round in 1..=rounds {
        let mut blows = [Blow::Agent, Blow::Cloud, Blow::Broker];
        dice.shuffle(&mut blows);
        for blow in blows {
            let device = &devices[dice.place(DEVICES)];
            await_traffic(device, FURTHER, octets(&trace), &mut dice);
            match blow {
                Blow::Agent => {
                    let device = &mut devices[dice.place(DEVICES)];
                    device.process.as_mut().unwrap().kill9().unwrap();
                    device.start();
                }
                Blow::Cloud => {
                    world.cloud.as_mut().unwrap().kill9().unwrap();
                    world.audit_folder();
                    world.start_cloud();
                }
                Blow::Broker => world.broker.restart_with_amnesia().unwrap(),
            }
        }
        say(&format!("kills: round {round} of {rounds}: {blows:?}"));
    }
    let mut kills = settle(&world, &mut devices, octets(&trace));
    kills.rounds = rounds;
    kills
}

/// The traces end, everything is reported and returned, the processes end by themselves, and all of it is charged.
pub(super) fn settle(world: &World, devices: &mut [Device], passed: u64) -> Kills {
    for device in devices.iter_mut() {
        device.process.as_mut().unwrap().kill9().unwrap();
        device.start_with(&["--speed", HURRY]);
    }
    for device in devices.iter_mut() {
        let process = device.process.as_mut().unwrap();
        let ended = await_fact(4 * LIMIT, &format!("{} ends in order", device.id), || {
            process.exited().unwrap().filter(|status| status.success())
        });
        ended.unwrap_or_else(|error| panic!("{error}; {}", process.tail()));
    }
    world.audit();
    let mut kills = Kills::default();
    for device in devices.iter() {
        let (shown, stored) = (world.show(device), device.stored());
        let charged = shown["charged"].as_u64();
        assert_eq!(charged, Some(passed), "{}: {shown}\n{stored}", device.id);
        assert_eq!(shown["charged"], stored["used"], "{}", device.id);
        assert_eq!(shown["epochs"], 1, "{}: no epoch ended", device.id);
        assert_eq!(shown["reserved"], 0, "{}: all was returned", device.id);
        kills.passed += passed;
        kills.metered += stored["used"].as_u64().unwrap();
        kills.charged += charged.unwrap();
    }
    kills
}
