//! Meters that their owners laid hands on: a store rolled back, a store edited, a key copied. What the cloud sees of it,
//! says on the fleet's event topic, and shows. What reports less in a way that fits together is found beside the
//! carrier's records alone: `keys::a_lying_meter_is_seen_beside_the_carriers_records`.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rumqttc::v5::Event as Packets;
use rumqttc::v5::mqttbytes::v5::Packet;
use serde_cbor::Value;
use simquota_cloud::io::keys::KeyFolder;
use simquota_edge::agent::{Commit, Durable};
use simquota_edge::io::store::Store;
use simquota_shared::codec::decode;
use simquota_shared::envelope::open_signed;
use simquota_shared::message::Event;
use simquota_shared::units::Octets;
use simquota_tests::broker::{Broker, Mosquitto};
use simquota_tests::missing::missing_part;
use simquota_tests::process::{LIMIT, await_fact};

use crate::broker::client::Client;
use crate::world::{Device, World, octets, steady};

const EVENTS: &str = "csim/v1/f/buses/event";
/// An agent begins no new epoch before it has run for a minute.
const EPOCH_LIMIT: Duration = LIMIT.saturating_mul(6);

/// Hears the fleet's events, each verified under the node's key.
struct Ear(Arc<Mutex<Vec<Event>>>);

impl Ear {
    async fn open<B: Broker>(world: &World<B>) -> Self {
        let (mut client, _) = Client::connect(&world.broker, "ear").await;
        client.subscribe(EVENTS).await;
        let folder = KeyFolder::open(&world.folder.path().join("cloud")).unwrap();
        let node = folder.node().unwrap().verifying_key();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Self(Arc::clone(&heard));
        tokio::spawn(async move {
            while let Ok(event) = client.events.poll().await {
                if let Packets::Incoming(Packet::Publish(publish)) = event {
                    let (_, payload) = open_signed(&node, EVENTS, &publish.payload).unwrap();
                    let event: Event = decode(&payload).unwrap();
                    heard
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(event);
                }
            }
        });
        ear
    }

    fn all(&self) -> Vec<Event> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for an event about a device.
    fn hear(&self, device: &Device, what: &str, fact: impl Fn(&Event) -> bool) -> Event {
        let about = |event: &Event| {
            event.device.as_ref().map(|id| id.as_str()) == Some(device.id.as_str()) && fact(event)
        };
        await_fact(EPOCH_LIMIT, what, || self.all().into_iter().find(about)).unwrap_or_else(
            |error| {
                let log = device.process.as_ref().map(|process| process.tail());
                panic!("{error}; heard {:?}; log {log:#?}", self.all())
            },
        )
    }

    fn suspicion(&self, device: &Device, reason: &str) -> Event {
        self.hear(device, reason, |event| {
            let kinds = ["suspicious", "two-devices", "sim-conflict", "store-reset"];
            kinds.contains(&event.kind.as_str()) && text(event, "reason") == reason
        })
    }
}

fn argument<'a>(event: &'a Event, name: &str) -> &'a Value {
    match &event.args {
        Value::Map(args) => &args[&Value::Text(name.to_owned())],
        other => panic!("{other:?}"),
    }
}

fn text(event: &Event, name: &str) -> String {
    match argument(event, name) {
        Value::Text(text) => text.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

fn number(event: &Event, name: &str) -> u64 {
    match argument(event, name) {
        Value::Integer(number) => u64::try_from(*number).unwrap(),
        other => panic!("{name} is {other:?}"),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What an owner with a debugger does to the store of a stopped agent; and to the files that would betray it.
fn edit(device: &Device, change: impl FnOnce(&mut Durable)) {
    let (mut store, state) = Store::open(&device.data.join("store")).unwrap();
    let mut state = state.unwrap();
    change(&mut state);
    let rows = Vec::new();
    store.commit(&Commit { state, rows }).unwrap();
    for mirror in ["epoch-a", "epoch-b"] {
        let _ = fs::remove_file(device.data.join(mirror));
    }
}

fn reasons<B: Broker>(world: &World<B>, device: &Device) -> Vec<String> {
    let show = world.show(device);
    let rows = show["suspicions"].as_array().unwrap();
    rows.iter()
        .map(|row| row["reason"].as_str().unwrap().to_owned())
        .collect()
}

fn started(device: &mut Device) {
    device.start();
    let pid = u64::from(device.process.as_ref().unwrap().id());
    device.await_status("registered", |status| {
        status["pid"].as_u64() == Some(pid) && status["registered"] == true
    });
}

/// Runs until some usage is in the ledger, and kills it.
fn used_and_killed(device: &mut Device) {
    started(device);
    device.await_status("usage acknowledged", |status| {
        status["acked"].as_u64() > Some(1)
    });
    device.process.take().unwrap().kill9().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_rolled_back_is_named_and_nothing_is_gained_by_it() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let ear = Ear::open(&world).await;
    let trace = steady(24, 10_000);
    let mut device = world.device("tracker-r", &trace, 1, "1 MB");
    used_and_killed(&mut device);
    let old = device.folder.join("old");
    copy(&device.data, &old);
    // The agent counts anew from where its store stands: so much it knows of at most.
    let known = device.stored()["used"].as_u64().unwrap() + 100_000;
    started(&mut device);
    await_fact(LIMIT, "usage beyond the copy", || {
        (world.show(&device)["charged"].as_u64() > Some(known)).then_some(())
    })
    .unwrap();
    device.process.take().unwrap().kill9().unwrap();
    fs::remove_dir_all(&device.data).unwrap();
    fs::rename(&old, &device.data).unwrap();
    device.start();

    let closed = ear.hear(&device, "the epoch's end", |event| {
        event.kind.as_str() == "epoch-closed"
    });
    let suspicion = ear.suspicion(&device, "store-went-back");
    assert!(text(&suspicion, "words").contains("its store went back"));
    assert_eq!(number(&closed, "octets"), 0, "it is charged already");
    let ended = device.process.as_mut().unwrap().wait_exit(EPOCH_LIMIT);
    assert!(ended.unwrap().success());
    let show = world.show(&device);
    assert_eq!(show["epochs"], 2);
    assert_eq!(reasons(&world, &device), ["store-reset", "store-went-back"]);
    // The lines after the copy were played, and charged, twice.
    let charged = show["charged"].as_u64().unwrap();
    let present = show["charged_epoch"].as_u64().unwrap();
    assert_eq!(charged, number(&closed, "total") + present);
    assert!(charged > octets(&trace), "{show}");
    world.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_store_does_not_fit_the_ledger_and_is_named() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let ear = Ear::open(&world).await;
    let trace = steady(600, 10_000);
    let mut less = world.device("tracker-l", &trace, 1, "1 MB");
    let mut more = world.device("tracker-m", &trace, 1, "1 MB");
    used_and_killed(&mut less);
    used_and_killed(&mut more);
    let charged = world.show(&less)["charged"].as_u64().unwrap();
    // One takes back what it used, the other one wants its neighbours' pool set aside for it.
    edit(&less, |state| state.used = Octets(state.used.0 / 2));
    edit(&more, |state| state.used = Octets(1_000_000_000_000_000));
    less.start();
    more.start();
    ear.suspicion(&less, "damaged-usage");
    ear.suspicion(&more, "implausible-used");
    assert!(reasons(&world, &less).contains(&"damaged-usage".to_owned()));
    assert!(reasons(&world, &more).contains(&"implausible-used".to_owned()));
    assert!(world.show(&less)["charged"].as_u64() >= Some(charged));
    assert!(world.show(&more)["charged"].as_u64() < Some(1_000_000_000));
    world.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_under_one_key_are_seen_and_shut_out() {
    let Some(program) = Mosquitto::find() else {
        return missing_part("mosquitto (a copied key)");
    };
    let world = World::over(Mosquitto::start(&program).unwrap());
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let ear = Ear::open(&world).await;
    let mut device = world.device("tracker-c", &steady(600, 1_000), 1, "1 MB");
    let folder = world.folder.path().join("thief");
    fs::create_dir_all(&folder).unwrap();
    for file in ["edge.toml", "edge.key", "trace.csv"] {
        fs::copy(device.folder.join(file), folder.join(file)).unwrap();
    }
    let config = crate::world::read(&folder.join("edge.toml"));
    let data = folder.join("data");
    let own = config.replace(device.data.to_str().unwrap(), data.to_str().unwrap());
    assert_ne!(own, config);
    fs::write(folder.join("edge.toml"), own).unwrap();
    let mut thief = Device {
        id: device.id.clone(),
        folder,
        data,
        process: None,
    };
    started(&mut device);
    started(&mut thief);
    // Who was first is told that its epoch has ended, begins another, and closes one that is not the present one.
    ear.suspicion(&device, "second-store");
    assert!(world.show(&device)["epochs"].as_u64() >= Some(3));
    assert!(reasons(&world, &device).contains(&"second-store".to_owned()));
    world.cloud(&["device", "shut-out", "tracker-c", "--why", "copied"]);
    ear.hear(&device, "its end", |event| {
        event.kind.as_str() == "shut-out"
    });
    world.audit();
}
