//! A device and a manager in Python, written from PROTOCOL.md alone, with the real cloud over mosquitto and MQTT 3.1.1.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use simquota_tests::broker::{Broker as _, Mosquitto};
use simquota_tests::missing::missing_part;
use simquota_tests::process::{Child, LIMIT};
use simquota_tests::tools;

use super::sniffer::Sniffer;
use crate::world::{World, steady};

/// The device's key file, as `enrol` prints it.
fn key_file(world: &World<Mosquitto>, device: &str, batch: &str) -> PathBuf {
    let row = world.cloud(&["enrol", device, "--batch", batch]).remove(0);
    let file = world.folder.path().join(format!("{device}.key"));
    fs::write(&file, row["enrolment"].as_str().unwrap()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

#[test]
fn a_stranger_registers_uses_is_cut_off_topped_up_and_returns_the_remainder() {
    let (Some(python), Some(mosquitto)) = (tools::python(), Mosquitto::find()) else {
        return missing_part("mosquitto, and Python with pycose, cbor2 and paho-mqtt (stranger)");
    };
    let world = World::over(Mosquitto::start(&mosquitto).unwrap());
    let sniffer = Sniffer::start(&world.broker);
    // Our own agent lives beside it.
    let mut agent = world.device("tracker-1", &steady(20, 1_000), 10, "20 kB");
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "1MB"]);
    agent.start();

    // A pool is shared by the devices of a fleet: the stranger has one of its own.
    world.cloud(&["fleet", "create", "others"]);
    world.cloud(&["enrol", "batch", "create", "autumn", "--fleet", "others"]);
    let key = key_file(&world, "stranger", "autumn");
    let mut command = Command::new(python);
    command
        .arg(tools::client("run.py"))
        .args(["story", "127.0.0.1", &world.broker.port_v4().to_string()])
        .arg(&key)
        .args(["--manager", "others", "others-manager/1"])
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
    assert!(
        process.wait_exit(2 * LIMIT).unwrap().success(),
        "{:#?}",
        process.tail()
    );
    let audit = world.audit();
    let heard = sniffer.check(&world.broker);
    for rule in [
        "on-up-register",
        "on-up-usage",
        "on-up-credit",
        "on-down-credit",
        "on-status",
        "on-fleet-reply",
    ] {
        assert!(heard.contains_key(rule), "{heard:?}");
    }
    println!(
        "stranger: {used} octets used, {} octets of payload in all, {} of them the device's; the audit holds over {} \
         entries; {heard:?} fit the schema",
        end["payload"], end["of_the_device"], audit["entries"]
    );
    assert!(end["payload"].as_u64() < Some(2_000), "{end}");
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
