//! The agent as a service: what its manager hears, its units, its provisioning, a configuration read again.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use simquota_tests::broker::Broker as _;
use simquota_tests::missing::missing_part;
use simquota_tests::process::{Child, LIMIT, await_fact};

use crate::world::{Device, World, octets, read, steady};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../edge/systemd");

fn edge(folder: &Path, args: &[&str]) -> Output {
    Command::new(DEMO)
        .arg("edge")
        .args(args)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

fn start(device: &mut Device, change: impl FnOnce(&mut Command)) {
    let mut command = Command::new(DEMO);
    command
        .args(["edge", "run", "--json", "--config"])
        .arg(device.folder.join("edge.toml"));
    change(&mut command);
    device.process = Some(Child::start(&device.id, &mut command).unwrap());
}

/// What the socket hears until a line fits.
fn hear(manager: &UnixDatagram, said: &mut Vec<String>, fits: impl Fn(&str) -> bool) {
    loop {
        let mut datagram = [0; 4096];
        let octets = manager
            .recv(&mut datagram)
            .unwrap_or_else(|error| panic!("{error}; heard {said:?}"));
        let text = String::from_utf8_lossy(&datagram[..octets]).into_owned();
        said.extend(text.lines().map(str::to_owned));
        if text.lines().any(&fits) {
            return;
        }
    }
}

#[test]
fn the_units_are_sound() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        return missing_part("systemd-analyze (units)");
    };
    assert!(version.status.success());
    let folder = tempfile::tempdir().unwrap();
    let names = ["simquota-edge.service", "simquota-gate.service"];
    for name in names {
        let unit = read(&Path::new(UNITS).join(name));
        // The check looks for the program itself.
        let unit = unit.replace("/usr/bin/simquota-edge", DEMO);
        fs::write(folder.path().join(name), unit).unwrap();
    }
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .args(names.map(|name| folder.path().join(name)))
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // A key that it does not know is only a warning.
    let about_ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("simquota"))
        .collect();
    assert!(about_ours.is_empty(), "{said}");
}

#[test]
fn the_service_manager_hears_ready_watchdog_status_and_stopping() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "10MB"]);
    let mut device = world.device("tracker-n", &steady(1_000, 1_000), 1, "100 kB");
    let name = world.folder.path().join("notify");
    let manager = UnixDatagram::bind(&name).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    start(&mut device, |command| {
        command
            .env("NOTIFY_SOCKET", &name)
            .env("WATCHDOG_USEC", "600000");
    });
    let mut said = Vec::new();
    hear(&manager, &mut said, |line| line == "READY=1");
    assert!(
        !said.iter().any(|line| line == "WATCHDOG=1"),
        "ready comes first: {said:?}"
    );
    hear(&manager, &mut said, |line| line == "WATCHDOG=1");
    hear(&manager, &mut said, |line| {
        line.starts_with("STATUS=open, ")
    });
    hear(&manager, &mut said, |line| line == "WATCHDOG=1");
    device.process.as_mut().unwrap().terminate().unwrap();
    hear(&manager, &mut said, |line| line == "STOPPING=1");
    device.process.as_mut().unwrap().wait_exit(LIMIT).unwrap();
    // Its last octets are with the cloud, and the rest of the grant too.
    let (shown, stored) = (world.show(&device), device.stored());
    assert_eq!(shown["charged"], stored["used"], "{shown}");
    assert_eq!(shown["reserved"], 0, "{shown}");
}

#[test]
fn a_configuration_read_again_changes_what_it_can_and_names_the_rest() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "10MB"]);
    let mut device = world.device("tracker-h", &steady(1_000, 1_000), 1, "100 kB");
    start(&mut device, |_| {});
    device.await_status("is granted", |status| status["gate_open"] == true);
    let path = device.folder.join("edge.toml");
    let before = read(&path);
    let process = device.process.as_ref().unwrap();
    let hangup = || {
        let pid = rustix::process::Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    };
    fs::write(&path, format!("{before}[broken")).unwrap();
    hangup();
    let line = process
        .wait_line(|line| line.contains("was not read again"), LIMIT)
        .unwrap();
    assert!(line.text.contains("edge.toml"), "{}", line.text);
    // Another port is another connection; another folder waits.
    let second = world.broker.port();
    let after = before
        .replace("want = \"100 kB\"", "want = \"200 kB\"")
        .replace("data = \"", "data = \"other-")
        .replace("127.0.0.1", "localhost")
        + "[device_info]\nmodel = \"other\"\n";
    fs::write(&path, after).unwrap();
    let mark = process.mark();
    hangup();
    process
        .wait_line_after(mark, |line| line.contains("was read again"), LIMIT)
        .unwrap();
    for key in ["data", "device_info", "status_file"] {
        let named = process
            .lines()
            .iter()
            .any(|line| line.text.contains("waits") && line.text.contains(key));
        assert!(named, "{key}: {}", process.tail());
    }
    process
        .wait_line_after(mark, |line| line.contains("connected to the broker"), LIMIT)
        .unwrap();
    let want = format!("localhost:{second}");
    device.await_status("speaks to the other name", |status| {
        status["broker"] == want.as_str()
    });
}

#[test]
fn a_device_is_provisioned_by_one_line() {
    let world = World::start();
    let url = format!("mqtt://127.0.0.1:{}", world.broker.port());
    let told = world.cloud(&["enrol", "tracker-p", "--batch", "spring", "--to", &url]);
    let line = told[0]["enrolment"].as_str().unwrap().to_owned();
    let folder = world.folder.path().join("tracker-p");
    let provision = |args: &[&str]| {
        let mut child = Command::new(DEMO)
            .args(["edge", "provision", "--interface", "lo", "--folder"])
            .arg(&folder)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    };
    let output = provision(&[]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mode = |name: &str| {
        fs::metadata(folder.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode("edge.key"), mode("edge.toml")), (0o600, 0o640));
    let key = line.split(['@', ':']).nth(3).unwrap();
    assert!(
        !read(&folder.join("edge.toml")).contains(key),
        "the key is in its file alone"
    );

    let again = provision(&[]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && said.contains("--force"),
        "{said}"
    );
    assert!(provision(&["--force"]).status.success());

    let mut device = Device {
        id: "tracker-p".to_owned(),
        data: folder.join("edge-data"),
        folder,
        process: None,
    };
    start(&mut device, |_| {});
    device.await_status("is registered", |status| status["registered"] == true);

    // With the state of one device no other goes on.
    let told = world.cloud(&["enrol", "tracker-q", "--batch", "spring", "--to", &url]);
    let other = world.folder.path().join("other");
    fs::write(&other, told[0]["enrolment"].as_str().unwrap()).unwrap();
    let open = edge(
        &device.folder,
        &["provision", "--force", "--from", other.to_str().unwrap()],
    );
    assert!(String::from_utf8_lossy(&open.stderr).contains("chmod 600"));
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = edge(
        &device.folder,
        &["provision", "--force", "--from", other.to_str().unwrap()],
    );
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("tracker-p"),
        "{said}"
    );
}

#[test]
fn the_hook_hears_of_the_sim_and_usage_adds_up_what_is_stored() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "10MB"]);
    let trace = steady(30, 1_000);
    let mut device = world.device("tracker-s", &trace, 30, "100 kB");
    let path = device.folder.join("edge.toml");
    let said = device.folder.join("said");
    let hook = format!(
        "[sim]\nhook = [\"sh\", \"-c\", \"cat >> {}\"]\n",
        said.display()
    );
    fs::write(&path, read(&path) + &hook).unwrap();
    device.start();
    device
        .process
        .as_mut()
        .unwrap()
        .wait_exit(2 * LIMIT)
        .unwrap();
    let heard = await_fact(LIMIT, "the hook", || {
        fs::read_to_string(&said)
            .ok()
            .filter(|text| text.ends_with('\n'))
    })
    .unwrap();
    let heard: serde_json::Value = serde_json::from_str(&heard).unwrap();
    assert_eq!(
        (&heard["event"], &heard["apn"]),
        (&"assigned".into(), &"iot".into())
    );

    let output = edge(
        &device.folder,
        &["usage", "--since", "2d", "--by", "hour", "--json"],
    );
    let steps: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let sum: u64 = steps
        .iter()
        .map(|step| step["up"].as_u64().unwrap() + step["down"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, octets(&trace), "{steps:?}");
    let table = edge(&device.folder, &["usage"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(
        table.lines().count() >= 2 && table.starts_with("from"),
        "{table}"
    );
    let later = edge(&device.folder, &["usage", "--since", "9999-01-01"]);
    assert!(String::from_utf8_lossy(&later.stdout).contains("no rows"));
}
