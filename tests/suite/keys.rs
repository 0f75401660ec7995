//! Keys and devices that are believed no longer, while everybody else goes on.

use std::process::Command;

use rumqttc::v5::mqttbytes::v5::Packet;
use serde_json::Value;
use simquota_shared::code::Code;
use simquota_shared::message::{RegisterAnswer, RegisterRequest};
use simquota_shared::topic::{Down, Up};
use simquota_shared::units::Epoch;

use simquota_tests::process::{Child, LIMIT};

use crate::broker::client::Client;
use crate::hand::{Hand, answer};
use crate::refused::registration;
use crate::world::{World, steady};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// The reasons on `ops/rejected`, as the service logs them at its end, are counted by the broker's client here.
async fn next_refusal(client: &mut Client) -> String {
    client
        .until(|packet| match packet {
            Packet::Publish(publish) if publish.topic.as_ref() == b"csim/v1/ops/rejected" => {
                let text = String::from_utf8_lossy(&publish.payload).into_owned();
                Some(text)
            }
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_device_is_shut_out_by_one_command_and_its_neighbour_goes_on() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let mut stolen = world.device("tracker-s", &steady(600, 10_000), 1, "1 MB");
    let mut neighbour = world.device("tracker-n", &steady(600, 10_000), 1, "1 MB");
    stolen.start();
    neighbour.start();
    for device in [&stolen, &neighbour] {
        device.await_status("usage acknowledged", |status| {
            status["acked"].as_u64() > Some(0)
        });
    }
    let (mut client, _) = Client::connect(&world.broker, "watcher").await;
    client.subscribe("csim/v1/ops/rejected").await;
    world.cloud(&["device", "shut-out", "tracker-s", "--why", "stolen"]);
    // The honest agent in the thief's hands is told, and shuts its gate.
    stolen.await_status("the gate to be shut", |status| status["gate_open"] == false);
    let refusal = next_refusal(&mut client).await;
    assert!(
        refusal.contains("shut-out") && refusal.contains("stolen"),
        "{refusal}"
    );
    assert_eq!(world.show(&stolen)["state"], "shut-out");
    let charged = world.show(&stolen)["charged"].clone();
    let acked = neighbour.status().unwrap()["acked"].as_u64().unwrap();
    neighbour.await_status("more usage acknowledged", |status| {
        status["acked"].as_u64() > Some(acked + 2)
    });
    assert_eq!(
        world.show(&stolen)["charged"],
        charged,
        "nothing of it is believed"
    );

    // It comes back: what it had not delivered is charged, once it is believed again.
    world.cloud(&["device", "readmit", "tracker-s"]);
    world.cloud(&["device", "resume", "tracker-s"]);
    let before = stolen.status().unwrap()["acked"].as_u64().unwrap();
    stolen.await_status("usage acknowledged again", |status| {
        status["acked"].as_u64() > Some(before) && status["gate_open"] == true
    });
    world.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_shows_up_as_two_is_refused_or_frozen() {
    let mut world = World::start();
    let hand = Hand::of(&world.device("tracker-a", "0,0,0\n", 1, "1 MB"));
    let other = Hand::of(&world.device("tracker-b", "0,0,0\n", 1, "1 MB"));
    let (mut client, _) = Client::connect(&world.broker, "by-hand").await;
    client.subscribe("csim/v1/d/+/down/+").await;
    let register = |client: &Client, hand: &Hand, request: &RegisterRequest| {
        client.send(
            &hand.up(Up::Register),
            false,
            hand.sealed(Up::Register, request),
        );
    };
    register(&client, &hand, &registration());
    let (first, _): (RegisterAnswer, _) = answer(&mut client, &hand, Down::Register).await;
    assert!(first.code.is_success());

    // A second serial number under the same key.
    let second = RegisterRequest {
        serial: simquota_shared::ids::Text::clipped("s-2"),
        ..registration()
    };
    register(&client, &hand, &second);
    let (refused, _): (RegisterAnswer, _) = answer(&mut client, &hand, Down::Register).await;
    assert_eq!(refused.code, Code::SERVICE_DENIED);
    // The SIM of another device: it is served under one of its own, and that is told.
    let taken = first.sim.unwrap().iccid;
    let sim = RegisterRequest {
        iccid: Some(taken.clone()),
        ..registration()
    };
    register(&client, &other, &sim);
    let (served, _): (RegisterAnswer, _) = answer(&mut client, &other, Down::Register).await;
    assert!(served.code.is_success());
    assert_ne!(served.sim.unwrap().iccid, taken);
    let shown = world.cloud(&["device", "show", "tracker-b"]).remove(0);
    assert_eq!(shown["suspicions"][0]["reason"], "second-sim", "{shown}");
    // Two stores that supersede each other: after the day's epochs no more.
    for epoch in 0..24 {
        let request = RegisterRequest {
            epoch: Epoch(1000 + epoch),
            ..registration()
        };
        register(&client, &hand, &request);
        let (taken, _): (RegisterAnswer, _) = answer(&mut client, &hand, Down::Register).await;
        assert!(taken.code.is_success(), "epoch {epoch}");
    }
    let request = RegisterRequest {
        epoch: Epoch(2000),
        ..registration()
    };
    register(&client, &hand, &request);
    let (refused, _): (RegisterAnswer, _) = answer(&mut client, &hand, Down::Register).await;
    assert_eq!(
        (refused.code, refused.retry_s.is_some()),
        (Code::SERVICE_DENIED, true)
    );
    assert_ne!(
        world.cloud(&["device", "show", "tracker-a"])[0]["state"],
        "shut-out"
    );

    // The same under the other policy: the device is frozen at the first sign.
    let mut cloud = world.cloud.take().unwrap();
    cloud.terminate().unwrap();
    cloud.wait_exit(LIMIT).unwrap();
    let config = world.folder.path().join("cloud.toml");
    let text = crate::world::read(&config);
    std::fs::write(&config, text + "[registration]\nfreeze = true\n").unwrap();
    world.start_cloud();
    register(&client, &hand, &second);
    let (refused, _): (RegisterAnswer, _) = answer(&mut client, &hand, Down::Register).await;
    assert_eq!(refused.code, Code::SERVICE_DENIED);
    assert_eq!(
        world.cloud(&["device", "show", "tracker-a"])[0]["state"],
        "shut-out"
    );
    world.audit();
}

#[test]
fn keys_and_batches_are_revoked_and_closed() {
    let world = World::start();
    world.cloud(&[
        "key", "create", "auditor", "--role", "viewer", "--fleet", "buses",
    ]);
    world.cloud(&["--key", "auditor", "package", "list", "--fleet", "buses"]);
    let (_, code, said) = world.command(&[
        "--key", "auditor", "package", "buy", "--fleet", "buses", "--volume", "1MB",
    ]);
    assert_eq!(code, 1, "a viewer looks and does nothing: {said}");
    world.cloud(&["key", "revoke", "auditor"]);
    let (_, code, said) =
        world.command(&["--key", "auditor", "package", "list", "--fleet", "buses"]);
    assert_ne!(code, 0);
    assert!(said.contains("revoked-key"), "{said}");
    let (_, code, said) = world.command(&["key", "revoke", "admin"]);
    assert_eq!(code, 1);
    assert!(said.contains("last-admin"), "{said}");
    let list = world.cloud(&["key", "list"]);
    let revoked: Vec<&Value> = list[0]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["revoked"] == true)
        .collect();
    assert_eq!(revoked.len(), 1, "{list:?}");
    assert_eq!(revoked[0]["key"], "auditor");

    // A closed batch admits nobody; who is in goes on.
    let mut early = world.device("tracker-e", &steady(600, 1000), 1, "100 kB");
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "1MB"]);
    early.start();
    early.await_status("registered", |status| status["registered"] == true);
    world.cloud(&["enrol", "batch", "close", "spring"]);
    let mut late = world.device("tracker-l", &steady(600, 1000), 1, "100 kB");
    late.start();
    let cloud = world.cloud.as_ref().unwrap();
    let fact = |line: &str| line.contains("enrolment-closed");
    cloud.wait_line(fact, LIMIT).unwrap();
    let acked = early.status().unwrap()["acked"].as_u64();
    early.await_status("usage acknowledged", |status| {
        status["acked"].as_u64() > acked
    });
    // Revoked, nobody under it is believed.
    world.cloud(&["enrol", "batch", "revoke", "spring"]);
    let cloud = world.cloud.as_ref().unwrap();
    let fact = |line: &str| line.contains("revoked-key");
    cloud.wait_line(fact, LIMIT).unwrap();
    assert_eq!(
        world.cloud(&["enrol", "batch", "list"])[0][0]["revoked"],
        true
    );
}

#[test]
fn a_lying_meter_is_seen_beside_the_carriers_records() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let trace = steady(3, 10_000);
    let mut device = world.device("tracker-y", &trace, 1, "1 MB");
    device.start();
    assert!(
        device
            .process
            .as_mut()
            .unwrap()
            .wait_exit(LIMIT)
            .unwrap()
            .success()
    );
    let iccid = world.show(&device)["iccid"].as_str().unwrap().to_owned();
    let reported = crate::world::octets(&trace);
    // Around midnight the samples may stand on two days: the carrier's file has whatever days we have.
    let days: std::collections::BTreeSet<String> = world
        .cloud(&["device", "show", "tracker-y"])
        .iter()
        .map(|row| row["registered"].as_u64().unwrap())
        .flat_map(|registered| [registered, registered + 60_000])
        .map(|ms| date(ms / 86_400_000))
        .collect();
    let file = world.folder.path().join("carrier.csv");
    let write = |octets: u64| {
        let rows: String = days
            .iter()
            .map(|day| format!("{iccid},{day},{octets}\n"))
            .collect();
        std::fs::write(&file, rows).unwrap();
    };
    let path = file.to_str().unwrap();
    if days.len() == 1 {
        write(reported);
        assert_eq!(world.cloud(&["carrier", path])[0]["drift_permille"], 0);
    }
    // The carrier counted twice as much.
    write(2 * reported);
    let (rows, code, said) = world.command(&["carrier", path]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("look at these devices' meters"), "{said}");
    assert!(
        rows[0]["drift_permille"].as_i64().unwrap() <= -500,
        "{rows:?}"
    );
}

pub(crate) fn date(day: u64) -> String {
    let output = Command::new("date")
        .args(["-u", "+%Y-%m-%d", "-d", &format!("@{}", day * 86_400)])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_over_the_air_and_the_old_one_is_over() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let mut device = world.device("tracker-k", &steady(600, 10_000), 1, "1 MB");
    let first = Hand::of(&device);
    device.start();
    device.await_status("usage acknowledged", |status| {
        status["acked"].as_u64() > Some(0)
    });
    world.cloud(&["device", "rotate-key", "tracker-k"]);
    let status = device.await_status("the next generation", |status| {
        status["key_id"] == "spring/2"
    });
    let acked = status["acked"].as_u64();
    device.await_status("usage under it", |status| status["acked"].as_u64() > acked);
    let show = world.show(&device);
    assert_eq!(show["generation"], 2, "{show}");
    // Who copied the first key is not believed under it any more.
    let (mut client, _) = Client::connect(&world.broker, "by-hand").await;
    client.subscribe("csim/v1/ops/rejected").await;
    let known = RegisterRequest {
        epoch: Epoch(show["epoch"].as_u64().unwrap()),
        ..registration()
    };
    client.send(
        &first.up(Up::Register),
        false,
        first.sealed(Up::Register, &known),
    );
    let refusal = next_refusal(&mut client).await;
    assert!(refusal.contains("old-generation"), "{refusal}");
    // The agent remembers over a kill.
    device.process.take().unwrap().kill9().unwrap();
    device.start();
    let pid = u64::from(device.process.as_ref().unwrap().id());
    device.await_status("the same generation", |status| {
        status["pid"].as_u64() == Some(pid)
            && status["key_id"] == "spring/2"
            && status["registered"] == true
    });
    world.audit();
}

/// Everything that is logged, at the lowest level, by everybody, over a whole life: no key, no password.
#[test]
fn no_secret_is_ever_logged() {
    let mut world = World::start();
    let mut cloud = world.cloud.take().unwrap();
    cloud.terminate().unwrap();
    cloud.wait_exit(LIMIT).unwrap();
    let mut command = Command::new(DEMO);
    command
        .args(["cloud", "--config"])
        .arg(world.folder.path().join("cloud.toml"))
        .arg("serve")
        .env("RUST_LOG", "trace");
    world.cloud = Some(Child::start("cloud", &mut command).unwrap());
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "1MB"]);
    let device = world.device("tracker-q", &steady(3, 10_000), 1, "100 kB");
    let line = crate::world::read(&device.folder.join("edge.key"));
    let secret = line.trim().rsplit(':').next().unwrap().to_owned();
    let key = simquota_shared::envelope::Key::from_hex(&secret).unwrap();
    let mut secrets = vec![secret, key.mqtt_password().to_string()];
    for file in ["node.key", "person/admin.1.key", "enrolment/spring.1.key"] {
        let path = world.folder.path().join("cloud/keys").join(file);
        secrets.push(crate::world::read(&path).trim().to_owned());
    }
    let output = Command::new(DEMO)
        .args(["edge", "run", "--config"])
        .arg(device.folder.join("edge.toml"))
        .env("RUST_LOG", "trace")
        .output()
        .unwrap();
    let cloud: Vec<String> = world
        .cloud
        .as_ref()
        .unwrap()
        .lines()
        .into_iter()
        .map(|line| line.text)
        .collect();
    let edge = String::from_utf8_lossy(&output.stderr);
    assert!(edge.contains("TRACE") || edge.contains("DEBUG"), "{edge}");
    let all = format!(
        "{edge}{}{}",
        String::from_utf8_lossy(&output.stdout),
        cloud.join("\n")
    );
    for secret in secrets {
        assert!(secret.len() >= 64);
        assert!(!all.contains(&secret), "a secret was logged");
        // Nor as a list of octets, which is how a careless Debug shows it.
        let octets: Vec<String> = hex_octets(&secret)
            .iter()
            .take(4)
            .map(u8::to_string)
            .collect();
        assert!(
            !all.contains(&octets.join(", ")),
            "a secret was logged as octets"
        );
    }
}

fn hex_octets(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
