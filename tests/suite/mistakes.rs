//! Mistakes of people: one clear line that names the thing and what to do, and an exit code that is not 0.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use simquota_tests::port::free_port;

use crate::world::{World, steady};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// What a command says, without the folder and the ports of this run.
fn says(folder: &Path, args: &[&str]) -> String {
    let output = Command::new(DEMO)
        .args(args)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let code = output.status.code().unwrap();
    assert_ne!(code, 0, "{args:?} is a mistake");
    let said = String::from_utf8_lossy(&output.stderr).replace(folder.to_str().unwrap(), "FOLDER");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(lines.len(), 1, "{args:?} says it in one line: {said}");
    format!("{} (exit {code})", lines[0])
}

fn changed(world: &World, file: &Path, from: &str, to: &str) {
    let text = crate::world::read(file);
    assert!(text.contains(from), "{} holds {from}", file.display());
    fs::write(file, text.replace(from, to)).unwrap();
    assert!(file.starts_with(world.folder.path()));
}

#[test]
fn each_mistake_is_named_with_what_to_do() {
    let world = World::start();
    let mut device = world.device("tracker-m", &steady(3600, 100), 1, "1 MB");
    let folder = world.folder.path();
    let config = device.folder.join("edge.toml");
    let good = crate::world::read(&config);
    let run = ["edge", "run", "--config", "tracker-m/edge.toml"];
    let mut said = String::new();
    let mut note = |what: &str, text: String| {
        said.push_str(&format!("{what}:\n  {text}\n"));
    };

    changed(&world, &config, "[quota]", "[quota]\nwnat = 1");
    note("edge, unknown key", says(folder, &run));
    fs::write(&config, good.replace("\"1 MB\"", "\"1 mb\"")).unwrap();
    note("edge, bad unit", says(folder, &run));
    fs::write(
        &config,
        good.replace(
            "kind = \"trace\"",
            "kind = \"interface\"\ninterface = \"wwan7\"",
        ),
    )
    .unwrap();
    let missing = says(folder, &run);
    assert!(
        missing.contains("wwan7") && missing.contains("lo"),
        "names it and what there is: {missing}"
    );
    fs::write(&config, &good).unwrap();
    let key = device.folder.join("edge.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    note("edge, key that others can read", says(folder, &run));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    device.start();
    device.await_status("runs", |status| status["registered"] == true);
    let locked = says(folder, &run);
    assert!(
        locked.contains("pid") || locked.contains("another"),
        "names who holds it: {locked}"
    );

    let cloud = folder.join("cloud.toml");
    let second = says(folder, &["cloud", "--config", "cloud.toml", "serve"]);
    assert!(
        second.contains("another") || second.contains("locked"),
        "{second}"
    );
    let good = crate::world::read(&cloud);
    fs::write(&cloud, good.replace("[grant]", "[grant]\nmaxx = 1")).unwrap();
    note(
        "cloud, unknown key",
        says(folder, &["cloud", "--config", "cloud.toml", "serve"]),
    );
    fs::write(&cloud, good.replace("\"1 kB\"", "\"1 kilo\"")).unwrap();
    note(
        "cloud, bad unit",
        says(folder, &["cloud", "--config", "cloud.toml", "serve"]),
    );
    let nobody = free_port().unwrap();
    fs::write(
        &cloud,
        good.replace(
            &format!(
                "port = {}",
                simquota_tests::broker::Broker::port(&world.broker)
            ),
            &format!("port = {nobody}"),
        ),
    )
    .unwrap();
    let silent = says(
        folder,
        &[
            "cloud",
            "--config",
            "cloud.toml",
            "--wait-s",
            "2",
            "fleet",
            "create",
            "x",
        ],
    );
    assert!(
        silent.contains(&nobody.to_string()),
        "names the broker: {silent}"
    );
    fs::write(&cloud, &good).unwrap();

    let admin = folder.join("cloud/keys/person/admin.1.key");
    let real = crate::world::read(&admin);
    fs::write(&admin, "00".repeat(32)).unwrap();
    note(
        "cloud, wrong admin key",
        says(
            folder,
            &["cloud", "--config", "cloud.toml", "fleet", "create", "x"],
        ),
    );
    fs::write(&admin, real).unwrap();

    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let in_use = says(folder, &["--port", &port, "--seconds", "5"]);
    note("demo, port in use", in_use.replace(&port, "PORT"));
    insta::assert_snapshot!(said);
}
