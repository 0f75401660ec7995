//! Recorded traffic, through agent, broker and cloud at 60 times its speed, charged to the octet.

use std::path::{Path, PathBuf};

use simquota_tests::process::LIMIT;

use crate::world::{World, octets, read};

fn recordings() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![here.join("traces/lo.csv")];
    // Mobile traces are not part of the project; where they lie beside it, they are played too.
    let beside = here.join("../../shared/traces");
    if let Ok(files) = std::fs::read_dir(beside) {
        found.extend(
            files
                .filter_map(|file| Some(file.ok()?.path()))
                .filter(|path| path.extension().is_some_and(|extension| extension == "csv")),
        );
    }
    found.sort();
    found
}

#[test]
fn recorded_traffic_is_charged_to_the_octet() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100GB"]);
    let mut playing = Vec::new();
    for (n, path) in recordings().iter().enumerate() {
        let trace = read(path);
        let mut device = world.device(&format!("player-{n}"), &trace, 60, "32 MB");
        device.start();
        playing.push((path.clone(), octets(&trace), device));
    }
    for (path, expected, device) in &mut playing {
        let status = device
            .process
            .as_mut()
            .unwrap()
            .wait_exit(3 * LIMIT)
            .unwrap();
        assert!(
            status.success(),
            "{}: {:#?}",
            path.display(),
            device.process.as_ref().unwrap().tail()
        );
        let shown = world.show(device);
        assert!(*expected > 0, "{} holds something", path.display());
        assert_eq!(
            shown["charged"].as_u64(),
            Some(*expected),
            "{}: {shown}",
            path.display()
        );
        println!("{}: {expected} octets", path.display());
    }
    world.audit();
}
