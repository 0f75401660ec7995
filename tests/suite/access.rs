//! Access control of a real broker, from the files that `simquota-cloud acl` writes: everybody is kept to their own
//! topics. That nobody believes a device about another without it is the suite `refused`.

use std::fs;

use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::v5::{ConnectionError, MqttOptions};
use simquota_shared::codec::decode;
use simquota_shared::envelope::{Key, open_signed};
use simquota_shared::message::Rejected;
use simquota_tests::broker::Mosquitto;
use simquota_tests::missing::missing_part;
use simquota_tests::process::LIMIT;

use crate::broker::client::{Client, options};
use crate::guarded::{Device, Guarded};
use crate::world::{octets, steady};

fn key_of(device: &Device) -> Key {
    let line = fs::read_to_string(device.folder.join("edge.key")).unwrap();
    Key::from_hex(line.trim().rsplit(':').next().unwrap()).unwrap()
}

fn login(world: &Guarded, user: &str, key: &Key) -> MqttOptions {
    let mut options = options(
        &world.broker,
        &format!("by-hand-{}", user.replace('.', "-")),
    );
    options.set_credentials(user, key.mqtt_password().as_str());
    options
}

/// Publishes, and says what the broker made of it.
async fn tried(client: &mut Client, topic: &str) -> PubAckReason {
    client.send(topic, false, b"garbage".to_vec());
    client
        .until(|packet| match packet {
            Packet::PubAck(answer) => Some(answer.reason),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_can_neither_read_nor_write_what_is_not_its_own() {
    let Some(program) = Mosquitto::find() else {
        return missing_part("mosquitto (access control)");
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let files = format!(
        "allow_anonymous false\nacl_file {0}/mosquitto.acl\npassword_file {0}/mosquitto.passwd\n",
        path.display()
    );
    // The files come from a cloud that has not spoken to any broker yet.
    let anybody = "allow_anonymous true\n";
    let mut world = Guarded::new(path, &program, anybody, "credentials = \"derived\"\n");
    let write = |world: &Guarded| {
        world.cloud(&["acl", "mosquitto", "--out", path.to_str().unwrap()]);
    };
    write(&world);
    world.broker.reconfigure(&files).unwrap();
    world.start_cloud();
    // The admin's user is in the files; the fleet's manager and the devices are not yet.
    let sims = path.join("sims.csv");
    fs::write(
        &sims,
        "89001,90140,CloudMobile,home,iot\n89002,90141,CloudMobile,home,iot\n",
    )
    .unwrap();
    world.cloud(&["fleet", "create", "buses"]);
    world.cloud(&["sim", "import", sims.to_str().unwrap()]);
    world.cloud(&["enrol", "batch", "create", "spring", "--fleet", "buses"]);
    let (trace_a, trace_b) = (steady(4, 30_000), steady(6, 20_000));
    let mut a = world.device("tracker-a", &trace_a, "");
    let mut b = world.device("tracker-b", &trace_b, "");
    write(&world);
    world.broker.reconfigure(&files).unwrap();
    // The admin buys: a fleet's commands are open to it.
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    world.cloud(&[
        "--key",
        "buses-manager",
        "package",
        "list",
        "--fleet",
        "buses",
    ]);

    // A, by hand, asks for everything, and an honest A and B run meanwhile.
    let stolen = key_of(&a);
    let (mut spy, _) = Client::connect_with(login(&world, "tracker-a", &stolen)).await;
    for filter in [
        "#",
        "csim/v1/d/tracker-b/down/+",
        "csim/v1/f/#",
        "csim/v1/ops/#",
    ] {
        spy.subscribe(filter).await;
    }
    let admin_key = fs::read_to_string(path.join("cloud/keys/person/admin.1.key")).unwrap();
    let admin_key = Key::from_hex(&admin_key).unwrap();
    let (mut admin, _) = Client::connect_with(login(&world, "key.admin", &admin_key)).await;
    admin.subscribe("csim/v1/ops/rejected").await;
    for topic in [
        "csim/v1/d/tracker-b/up/credit",
        "csim/v1/d/tracker-b/status",
        "csim/v1/d/tracker-b/down/credit",
        "csim/v1/d/tracker-a/down/credit",
        "csim/v1/f/buses/command",
        "csim/v1/f/buses/event",
        "csim/v1/ops/command",
        "csim/v1/ops/rejected",
        "elsewhere",
    ] {
        assert_eq!(
            tried(&mut spy, topic).await,
            PubAckReason::NotAuthorized,
            "{topic}"
        );
    }
    // The fence: what A says on its own topic does reach the service, and it is the first that does.
    let own = "csim/v1/d/tracker-a/up/credit";
    assert_eq!(tried(&mut spy, own).await, PubAckReason::Success);
    let message = admin
        .until(|packet| match packet {
            Packet::Publish(publish) => Some(publish.payload.to_vec()),
            _ => None,
        })
        .await;
    let node = simquota_cloud::io::keys::KeyFolder::open(&path.join("cloud")).unwrap();
    let node = node.node().unwrap().verifying_key();
    let (_, payload) = open_signed(&node, "csim/v1/ops/rejected", &message).unwrap();
    let rejected: Rejected = decode(&payload).unwrap();
    assert_eq!(
        (rejected.topic.as_str(), rejected.reason.as_str()),
        (own, "envelope")
    );

    a.start();
    b.start();
    for device in [&mut a, &mut b] {
        let ended = device.process.as_mut().unwrap().wait_exit(LIMIT).unwrap();
        assert!(ended.success());
        device.process.as_ref().unwrap().assert_no_errors(&[]);
    }
    let all = octets(&trace_a) + octets(&trace_b);
    assert_eq!(world.audit()["charged"].as_u64(), Some(all));
    // What the spy heard of all this: its own device's share.
    heard_only_its_own(&mut spy, own).await;

    // Who has no right password is not let in at all.
    let wrong = Key::new([1; 32]);
    for (user, key) in [
        ("tracker-a", &wrong),
        ("tracker-z", &stolen),
        ("key.admin", &stolen),
    ] {
        let (_client, mut events) = rumqttc::v5::AsyncClient::new(login(&world, user, key), 10);
        let refused = events.poll().await;
        assert!(
            matches!(refused, Err(ConnectionError::ConnectionRefused(_))),
            "{user}: {refused:?}"
        );
    }
    // And A, once it is taken off, with its own password neither.
    world.cloud(&["device", "shut-out", "tracker-a"]);
    write(&world);
    world.broker.reconfigure(&files).unwrap();
    let login = login(&world, "tracker-a", &stolen);
    let (_client, mut events) = rumqttc::v5::AsyncClient::new(login, 10);
    let refused = events.poll().await;
    assert!(
        matches!(refused, Err(ConnectionError::ConnectionRefused(_))),
        "{refused:?}"
    );
    world.cloud.as_ref().unwrap().assert_no_errors(&[]);
}

/// Everything that waits for the spy is of its own device.
async fn heard_only_its_own(spy: &mut Client, own: &str) {
    // One more of its own messages: what was delivered before it is before its acknowledgement.
    spy.send(own, false, b"fence".to_vec());
    let mut heard = Vec::new();
    spy.until(|packet| match packet {
        Packet::Publish(publish) => {
            heard.push(String::from_utf8_lossy(&publish.topic).into_owned());
            None
        }
        Packet::PubAck(_) => Some(()),
        _ => None,
    })
    .await;
    assert!(!heard.is_empty(), "its own answers come");
    for topic in heard {
        assert!(topic.starts_with("csim/v1/d/tracker-a/down/"), "{topic}");
    }
}

#[test]
fn what_is_only_tried_leaves_no_key_behind() {
    let world = crate::world::World::start();
    let names = || {
        let folder = world.folder.path().join("cloud/keys");
        let mut names = std::collections::BTreeMap::new();
        for kind in std::fs::read_dir(&folder).unwrap() {
            let kind = kind.unwrap().path();
            if kind.is_dir() {
                for file in std::fs::read_dir(&kind).unwrap() {
                    let path = file.unwrap().path();
                    names.insert(path.clone(), std::fs::read(&path).unwrap());
                }
            }
        }
        names
    };
    let before = names();
    let audit = world.cloud(&["audit"]).remove(0)["entries"].clone();
    for tried in [
        &[
            "key", "create", "auditor", "--role", "viewer", "--fleet", "buses",
        ][..],
        &["enrol", "batch", "create", "summer", "--fleet", "buses"],
        &["fleet", "create", "trams"],
        &["enrol", "tracker-1", "--batch", "spring"],
    ] {
        let (rows, code, said) = world.command(&[&["--dry-run"], tried].concat());
        assert_eq!(code, 0, "{tried:?}: {said}");
        let said = format!("{rows:?}{said}");
        assert!(!said.contains("csim1:"), "{tried:?}: {said}");
        assert_eq!(names(), before, "{tried:?}");
    }
    assert_eq!(world.cloud(&["audit"]).remove(0)["entries"], audit);
}
