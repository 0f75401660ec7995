//! The cloud's own trouble: a full disk, a sync that fails, a backup that is older than what devices have deleted.
//! Nothing acknowledged is lost, nothing is promised that is not durable, and it goes on when the trouble is over.

use std::fs;
use std::process::Command;

use rumqttc::v5::mqttbytes::v5::Packet;
use simquota_tests::disk::Disk;
use simquota_tests::missing::missing_part;
use simquota_tests::process::LIMIT;

use crate::broker::client::Client;
use crate::world::{Device, World, octets, steady};

/// Moves the service's data onto a disk of its own.
fn onto(world: &mut World, disk: &Disk) {
    stop(world);
    let folder = world.folder.path();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(folder.join("cloud"))
        .arg(disk.mount.join("data"))
        .status()
        .unwrap();
    assert!(copied.success());
    // What is on the disk before it fails is really there.
    assert!(Command::new("sync").status().unwrap().success());
    let config = folder.join("cloud.toml");
    let text = crate::world::read(&config);
    let data = format!("data = {:?}", disk.mount.join("data"));
    fs::write(&config, text.replace("data = \"cloud\"", &data)).unwrap();
    world.start_cloud();
}

fn stop(world: &mut World) {
    let mut cloud = world.cloud.take().unwrap();
    cloud.terminate().unwrap();
    cloud.wait_exit(LIMIT).unwrap();
}

async fn node_state(client: &mut Client, wanted: &str) {
    client
        .until(|packet| match packet {
            Packet::Publish(publish) if publish.topic.starts_with(b"csim/v1/ops/node/") => {
                let text = String::from_utf8_lossy(&publish.payload).into_owned();
                text.contains(wanted).then_some(())
            }
            _ => None,
        })
        .await;
}

/// A disk goes wrong under a device that reports each second, and is mended.
async fn goes_read_only_and_on(
    world: &mut World,
    disk: &Disk,
    wrong: fn(&Disk) -> anyhow::Result<()>,
) {
    onto(world, disk);
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let trace = steady(15, 30_000);
    let mut device = world.device("tracker-d", &trace, 1, "1 MB");
    let (mut client, _) = Client::connect(&world.broker, "watcher").await;
    client.subscribe("csim/v1/ops/node/+").await;
    device.start();
    device.await_status("usage acknowledged", |status| {
        status["acked"].as_u64() > Some(1)
    });
    wrong(disk).unwrap();
    // Entries until one finds no place: a block that was taken before has some room left. Whoever asks then is told.
    let said = (0..500)
        .map(|_| world.command(&["package", "buy", "--fleet", "buses", "--volume", "1MB"]))
        .find_map(|(_, code, said)| (code != 0).then_some(said))
        .unwrap();
    assert!(
        said.contains("too-busy") || said.contains("read-only"),
        "{said}; {}",
        world.cloud.as_ref().unwrap().tail()
    );
    let cloud = world.cloud.as_ref().unwrap();
    let stopped = |line: &str| line.contains("read-only: nothing is promised");
    cloud.wait_line(stopped, LIMIT).unwrap();
    node_state(&mut client, "read-only").await;
    disk.mend().unwrap();
    let goes_on = |line: &str| line.contains("promises are made again");
    cloud.wait_line(goes_on, LIMIT).unwrap();
    node_state(&mut client, "serving").await;
    let ended = device
        .process
        .as_mut()
        .unwrap()
        .wait_exit(LIMIT * 4)
        .unwrap();
    assert!(ended.success());
    assert_eq!(world.audit()["charged"].as_u64(), Some(octets(&trace)));
    let cloud = world.cloud.as_ref().unwrap();
    cloud.assert_no_errors(&["commit failed", "read-only: nothing is promised", "fjall::"]);
    // What was acknowledged is on the disk, not only in somebody's memory.
    world.cloud.take().unwrap().kill9().unwrap();
    world.start_cloud();
    assert_eq!(world.audit()["charged"].as_u64(), Some(octets(&trace)));
    stop(world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_promises_and_loses_none() {
    let mut world = World::start();
    match Disk::mount(world.folder.path(), "full", 48, 64) {
        Ok(disk) => goes_read_only_and_on(&mut world, &disk, Disk::fill).await,
        Err(error) => missing_part(&format!("root and loop devices (full disk): {error}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_stops_promises_and_loses_none() {
    let mut world = World::start();
    match Disk::mount(world.folder.path(), "broken", 400, 32) {
        Ok(disk) => goes_read_only_and_on(&mut world, &disk, Disk::fail).await,
        Err(error) => missing_part(&format!("root and loop devices (failing sync): {error}")),
    }
}

#[test]
fn a_backup_under_load_restores_to_an_audit_that_holds_and_the_sides_agree_again() {
    older_than_its_device("tracker-r", |_| {});
}

#[test]
fn a_device_that_starts_after_an_older_backup_was_restored_sends_its_settled_samples_again() {
    older_than_its_device("tracker-s", |device| {
        device.process.take().unwrap().kill9().unwrap();
        device.start();
    });
}

/// The service goes back to before samples that its device has settled; `meanwhile` is what the device does.
fn older_than_its_device(name: &str, meanwhile: fn(&mut Device)) {
    let mut world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let trace = steady(14, 30_000);
    let mut device = world.device(name, &trace, 1, "1 MB");
    device.start();
    device.await_status("usage acknowledged", |status| {
        status["acked"].as_u64() > Some(1)
    });
    let backup = world.cloud(&["backup", "early"]).remove(0);
    let acked = device.status().unwrap()["acked"].as_u64().unwrap();
    // The device goes on, and has settled what the backup does not know.
    device.await_status("more acknowledged", |status| {
        status["acked"].as_u64() > Some(acked + 2)
    });
    world.cloud.take().unwrap().kill9().unwrap();
    let file = backup["file"].as_str().unwrap();
    let (_, code, said) = world.command(&["restore", file]);
    assert_eq!(code, 2);
    assert!(said.contains("--replace"), "{said}");
    world.cloud(&["restore", file, "--replace"]);
    let restored = world.cloud(&["audit", "--offline"]).remove(0);
    assert_eq!(
        (&restored["holds"], &restored["entries"]),
        (&true.into(), &backup["entries"])
    );
    meanwhile(&mut device);
    world.start_cloud();
    let ended = device
        .process
        .as_mut()
        .unwrap()
        .wait_exit(LIMIT * 4)
        .unwrap();
    assert!(ended.success());
    assert_eq!(world.audit()["charged"].as_u64(), Some(octets(&trace)));
    // Sample by sample: no epoch had to end for it.
    let show = world.show(&device);
    assert_eq!(
        (&show["epochs"], &show["charged_epoch"]),
        (&1.into(), &octets(&trace).into())
    );
}
