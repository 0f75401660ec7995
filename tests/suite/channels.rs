//! Channels: the SIM is lost in mid-transfer, another network carries on, the SIM comes back. Two real links in
//! network namespaces.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;
use simquota_tests::broker::Broker as _;
use simquota_tests::missing::missing_part;
use simquota_tests::netns::{BROKER_IP, DEVICE_IP, FAR_IP, Lab, OTHER, SIM};
use simquota_tests::process::{Child, LIMIT, await_fact};

use crate::world::{Device, World};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// What differs from the shipped edge.toml.
const EDGE: &str = "key_file = \"edge.key\"\ndata = \"data\"\n[quota]\nwant = \"20 MB\"\n[broker]\nhost = \"HOST\"\nport = PORT\n[channels]\norder = [\"sim\", \"wlan0\"]\nleave_s = 1\n[source]\ninterface = \"wwan0\"\nwait = true\npoll_ms = 60000\n[gate]\nkind = \"nft\"\n[end]\nshutdown_s = 30\n";

/// The entries of the device's explanation that are after this many.
fn told_after(world: &World, device: &Device, known: usize) -> Vec<Value> {
    let mut told = world.cloud(&["explain", &device.id]);
    if let [Value::Array(rows)] = told.as_slice() {
        told = rows.clone();
    }
    told.split_off(known.min(told.len()))
}

fn shows(entry: &Value, step: &str) -> bool {
    let steps = entry["steps"].as_str().unwrap_or_default();
    steps.split(' ').any(|one| one == step)
}

#[test]
fn a_lost_sim_is_settled_over_the_other_network_and_begins_anew_when_it_is_back() {
    let made = Lab::make(true).and_then(|lab| {
        lab.plug_other()?;
        lab.route_by_sim()?;
        Ok(lab)
    });
    let lab = match made {
        Ok(lab) => lab,
        Err(why) => {
            return missing_part(&format!("root, ip, nft and veth (channels: {why:#})"));
        }
    };
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let mut device = world.device("tracker-c", "", 1, "20 MB");
    let port = lab.relay_either_way(world.broker.port()).unwrap();
    let config = EDGE
        .replace("HOST", &BROKER_IP.to_string())
        .replace("PORT", &port.to_string());
    fs::write(device.folder.join("edge.toml"), config).unwrap();
    let mut command = lab.device.command(DEMO);
    command
        .args(["edge", "run", "--json", "--config"])
        .arg(device.folder.join("edge.toml"));
    device.process = Some(Child::start(&device.id, &mut command).unwrap());
    device.await_status("is open over the SIM", |status| {
        status["gate_open"] == true && status["channel"] == "sim"
    });

    // Upwards: a veth pair takes the received half of its statistics down before the removal is told.
    let near = lab
        .device
        .within(|| Ok(UdpSocket::bind((DEVICE_IP, 0))?))
        .unwrap();
    let transfer = std::thread::spawn(move || {
        let mut sent = 0_u64;
        // Until the link is gone.
        while near.send_to(&[7; 1_000], (FAR_IP, 9)).is_ok() {
            sent += 1;
            if sent.is_multiple_of(20) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        sent
    });
    let at_least = await_fact(LIMIT, "the middle of the transfer", || {
        let (up, _) = lab.device.octets(SIM).unwrap();
        (up > 3_000_000).then_some(up)
    })
    .unwrap();
    lab.unplug().unwrap();
    let sent = transfer.join().unwrap();
    let status = device.await_status("has settled over the other network", |status| {
        status["channel"] == "wlan0"
            && status["state"] == "off-sim"
            && status["request_open"] == false
            && status["backlog"] == 0
    });
    let used = status["used"].as_u64().unwrap();
    assert!(used >= at_least, "{used} metered, the link had {at_least}");
    println!("{sent} packets of 1028 octets were sent");
    let shown = world.show(&device);
    assert_eq!(shown["charged"], status["used"], "{shown}");
    assert_eq!(shown["reserved"], 0, "the rest went back: {shown}");
    let told = told_after(&world, &device, 0);
    let usage = told
        .iter()
        .find(|entry| shows(entry, "S5") && shows(entry, "S33"));
    assert!(usage.is_some(), "{told:#?}");
    println!(
        "{used} metered, at least {at_least} were on the link; {}",
        usage.unwrap()["words"]
    );

    // What goes over the other network is nobody's.
    let other = lab.device.octets(OTHER).unwrap();
    assert!(other.0 > 0 && other.1 > 0);
    lab.plug(true).unwrap();
    lab.route_by_sim().unwrap();
    let back = device.await_status("is back on the SIM", |status| {
        status["channel"] == "sim" && status["gate_open"] == true
    });
    let first = told_after(&world, &device, told.len())
        .into_iter()
        .find(|entry| shows(entry, "S21"));
    assert!(first.is_some(), "an initial came first");
    assert!(back["used"].as_u64().unwrap() - used < 100_000, "{back}");
    world.audit();
}
