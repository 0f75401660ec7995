//! A device and a manager in Python, written from PROTOCOL.md alone, with the real cloud over mosquitto and MQTT 3.1.1.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use simquota_shared::codec::encode;
use simquota_shared::envelope::{Key, Kid, seal};
use simquota_shared::message::{Ack, Outcome};
use simquota_shared::units::Epoch;
use simquota_tests::broker::{Broker as _, Mosquitto};
use simquota_tests::missing::missing_part;
use simquota_tests::process::{Child, LIMIT};
use simquota_tests::tools;

use super::sniffer::Sniffer;
use crate::broker::client::{Client, options};
use crate::world::{World, steady};

/// The device's key file, as `enrol` prints it.
fn key_file(world: &World<Mosquitto>, device: &str, batch: &str) -> PathBuf {
    let row = world.cloud(&["enrol", device, "--batch", batch]).remove(0);
    let file = world.folder.path().join(format!("{device}.key"));
    fs::write(&file, row["enrolment"].as_str().unwrap()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// A message under a key that nobody has: it fits the schema, and is refused on `ops/rejected`.
fn forge(world: &World<Mosquitto>) {
    let topic = "csim/v1/d/tracker-1/up/ack";
    let ack = Ack {
        epoch: Epoch(1),
        id: "c-1".parse().unwrap(),
        number: 1,
        outcome: Outcome::Applied,
        why: None,
    };
    let kid = Kid::first(&"spring");
    let message = seal(&Key::new([9; 32]), &kid, topic, &encode(&ack).unwrap()).unwrap();
    let options = options(&world.broker, "forger");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut client, _) = Client::connect_with(options).await;
        client.subscribe("csim/v1/ops/rejected").await;
        client.send(topic, false, message);
        client.message().await;
    });
}

#[test]
fn a_stranger_registers_uses_is_cut_off_topped_up_and_returns_the_remainder() {
    let (Some(python), Some(mosquitto)) = (tools::python(), Mosquitto::find()) else {
        return missing_part("mosquitto, and Python with pycose, cbor2 and paho-mqtt (stranger)");
    };
    let world = World::over(Mosquitto::start(&mosquitto).unwrap());
    let sniffer = Sniffer::start(&world.broker);
    // Our own agent lives beside it, and is told this and that.
    let mut agent = world.device("tracker-1", &steady(3_600, 1_000), 1, "20 kB");
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "1MB"]);
    agent.start();
    agent.await_status("is granted", |status| status["ceiling"].as_u64() > Some(0));
    world.cloud(&["device", "report", "tracker-1"]);
    world.cloud(&["device", "suspend", "tracker-1"]);
    agent.await_status("is suspended", |status| status["suspended"] == true);
    world.cloud(&["device", "resume", "tracker-1"]);
    agent.await_status("goes on", |status| status["remaining"].as_u64() > Some(0));
    forge(&world);
    for question in [
        ["device", "list"],
        ["package", "list"],
        ["explain", "tracker-1"],
    ] {
        world.cloud(&question);
    }

    // A pool is shared by the devices of a fleet: the stranger has one of its own.
    world.cloud(&["fleet", "create", "others"]);
    world.cloud(&["enrol", "batch", "create", "autumn", "--fleet", "others"]);
    let key = key_file(&world, "stranger", "autumn");
    let mut command = Command::new(python);
    command
        .arg(tools::client("story.py"))
        .args(["127.0.0.1", &world.broker.port_v4().to_string()])
        .arg(&key)
        .args(["others", "others-manager/1"])
        .arg(
            world
                .folder
                .path()
                .join("cloud/keys/person/others-manager.1.key"),
        );
    let mut stranger = Child::start("stranger", &mut command).unwrap();
    let status = stranger.wait_exit(2 * LIMIT).unwrap();
    let lines: Vec<String> = stranger
        .lines()
        .iter()
        .map(|line| line.text.clone())
        .collect();
    assert!(status.success(), "{lines:#?}");
    let said: Vec<Value> = lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();

    // Cut off at the last octet of the package; what it did not use of the second one came back.
    assert_eq!(said[0]["cut_off_at"], 100_000);
    let (end, used) = (&said[1], said[1]["used"].as_u64().unwrap());
    assert_eq!(
        (&end["returned"], &end["ceiling"]),
        (&Value::Bool(true), &end["used"])
    );
    let shown = world.cloud(&["device", "show", "stranger"]).remove(0);
    assert_eq!(shown["charged"].as_u64(), Some(used), "{shown}");
    assert_eq!(shown["reserved"], 0, "{shown}");
    let process = agent.process.as_mut().unwrap();
    process.terminate().unwrap();
    assert!(
        process.wait_exit(2 * LIMIT).unwrap().success(),
        "{:#?}",
        process.tail()
    );
    let audit = world.audit();
    let heard = sniffer.check(&world.broker);
    let unheard: Vec<&str> = super::schema::RULES
        .iter()
        .copied()
        .filter(|rule| !heard.contains_key(rule))
        .collect();
    assert!(unheard.is_empty(), "never heard {unheard:?}: {heard:?}");
    println!(
        "stranger: {used} octets used, {} octets of payload in all, {} of them the device's; the audit holds over {} \
         entries; {heard:?} fit the schema",
        end["payload"], end["of_the_device"], audit["entries"]
    );
    assert!(end["payload"].as_u64() < Some(2_000), "{end}");
}

/// Lines of Python but blank ones, comments and descriptions.
fn code_lines(file: &str) -> usize {
    let text = fs::read_to_string(tools::client(file)).unwrap();
    let (mut lines, mut described) = (0, false);
    for line in text.lines().map(str::trim) {
        let quotes = line.matches("\"\"\"").count();
        let code = !described && quotes == 0 && !line.is_empty() && !line.starts_with('#');
        lines += usize::from(code);
        described ^= quotes == 1;
    }
    lines
}

#[test]
fn the_stranger_is_as_short_as_the_page_says() {
    let lines = code_lines("csim.py") + code_lines("story.py");
    println!("stranger: {lines} lines of code");
    assert!(lines < 300, "{lines}");
}

#[test]
fn the_vectors_hold_against_other_implementations() {
    let Some(python) = tools::python() else {
        return missing_part("Python with pycose and cbor2 (vectors)");
    };
    let output = Command::new(python)
        .arg(tools::client("vectors.py"))
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../shared/vectors.json"
        ))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    print!("vectors: {}", String::from_utf8_lossy(&output.stdout));
}
