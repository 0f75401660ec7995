//! What passes at a gate that is used up, and what the agent needs to make it: no more than CAP_NET_ADMIN. Real packets
//! between two network namespaces.

use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use simquota_tests::missing::missing_part;
use simquota_tests::netns::{FAR_IP, Family, Flood, Site, Wanted, number};
use simquota_tests::process::{LIMIT, await_fact};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// Nobody, on most systems.
const USER: u32 = 65_534;

/// Gives a folder, and everything in it, to [`USER`].
fn give(path: &Path) {
    chown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

fn at_far(site: &Site, port: u16) -> UdpSocket {
    let bound = site.lab.far.within(|| Ok(UdpSocket::bind((FAR_IP, port))?));
    let socket = bound.unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

#[test]
fn an_agent_with_nothing_but_its_right_to_the_network_makes_the_gate() {
    if Command::new("setpriv").arg("--version").output().is_err() {
        return missing_part("setpriv (an agent without other rights)");
    }
    let wanted = Wanted {
        volume: "2MB",
        ..Wanted::default()
    };
    let Some(mut site) = Site::make("tracker-p", &wanted) else {
        return;
    };
    // What another user may read on the way to it.
    let shared = site.world.folder.path();
    fs::set_permissions(shared, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    give(&site.device.folder);
    let user = USER.to_string();
    let demo = shared.join("demo");
    // The program may lie where only its owner can go.
    fs::copy(DEMO, &demo).unwrap();
    let demo = demo.to_str().unwrap().to_owned();
    let rights = "+net_admin";
    let words = [
        "setpriv",
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "--inh-caps",
        rights,
        "--ambient-caps",
        rights,
        "--bounding-set",
        "-all,+net_admin",
        "--no-new-privs",
        &demo,
    ];
    site.spawn(&words);
    site.device
        .await_status("is open", |status| status["gate_open"] == true);
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    let load = Flood::unending(near, far.local_addr().unwrap());
    let status = site.used_up();
    assert!(site.passed() <= 2_000_000, "{status}");
    assert_eq!(status["connected"], true, "{status}");
    // The agent is heard at the shut gate, as its user; others to the same port are not.
    let broker = (FAR_IP, site.port);
    let other = site.lab.device.within(|| {
        Ok(TcpStream::connect_timeout(&broker.into(), std::time::Duration::from_secs(1)).is_ok())
    });
    assert!(
        !other.unwrap(),
        "it is the agent's user that is let through"
    );
    drop(load);
    site.buy("1MB");
    site.device
        .await_status("heard of it", |status| status["gate_open"] == true);
}

#[test]
fn names_and_time_pass_at_a_gate_that_is_used_up_and_no_more_than_the_allowance() {
    let wanted = Wanted {
        volume: "300kB",
        grant: "allowance = \"30 kB\"\n",
        ..Wanted::default()
    };
    let Some(site) = Site::start("tracker-q", &wanted) else {
        return;
    };
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    let (names, time) = (at_far(&site, 53), at_far(&site, 123));
    let load = Flood::unending(near.try_clone().unwrap(), far.local_addr().unwrap());
    site.used_up();
    site.device.await_status("is used up", |status| {
        status["remaining"] == 0 || status["state"] == "exhausted"
    });
    drop(load);
    far.set_nonblocking(true).unwrap();
    while far.recv(&mut [0; 2_000]).is_ok() {}
    let (mut by_name, mut by_time) = (0, 0);
    await_fact(LIMIT, "names and time", || {
        for port in [53, 123, far.local_addr().unwrap().port()] {
            let _ = near.send_to(&[1; 40], (FAR_IP, port));
        }
        by_name += u32::from(names.recv(&mut [0; 100]).is_ok());
        by_time += u32::from(time.recv(&mut [0; 100]).is_ok());
        (by_name >= 5 && by_time >= 5).then_some(())
    })
    .unwrap_or_else(|error| site.fail(&error));
    // Without an end it is no allowance.
    let load = Flood::unending(near, names.local_addr().unwrap());
    await_fact(LIMIT, "the allowance to end", || {
        let status = site.device.status()?;
        (number(&status, "used") + 1_500 > number(&status, "stop")).then_some(())
    })
    .unwrap_or_else(|error| site.fail(&error));
    drop(load);
    // Beyond the stop the agent itself is silent: a request may wait for its answer.
    let status = await_fact(LIMIT, "all metered", || {
        let status = site.device.status()?;
        (status["used"] == site.carried()).then_some(status)
    })
    .unwrap_or_else(|error| site.fail(&error));
    assert!(
        number(&status, "used") <= number(&status, "stop"),
        "{status}"
    );
}

#[test]
fn a_used_up_window_is_an_event_and_no_poll_finds_it() {
    let wanted = Wanted {
        volume: "4MB",
        want: "4 MB",
        ..Wanted::default()
    };
    let Some(mut site) = Site::make("tracker-i", &wanted) else {
        return;
    };
    let config = site.device.folder.join("edge.toml");
    let text = fs::read_to_string(&config).unwrap();
    // Longer than the test waits for anything.
    fs::write(&config, text.replace("poll_ms = 200", "poll_ms = 600000")).unwrap();
    site.start_agent();
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    let load = Flood::unending(near, far.local_addr().unwrap());
    // A window is a twentieth of the grant: there are many of them.
    await_fact(LIMIT, "one window after the other", || {
        (site.passed() > 3_500_000).then_some(())
    })
    .unwrap_or_else(|error| site.fail(&error));
    drop(load);
    assert!(site.passed() <= 4_000_000);
}

/// `simquota-edge gate` in the device.
fn gate(site: &Site, action: &str) -> String {
    let config = site.device.folder.join("edge.toml");
    let mut command = site.lab.device.command(DEMO);
    let output = command
        .args(["edge", "gate", "--config"])
        .arg(config)
        .arg(action)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => String::from_utf8_lossy(&output.stdout).into_owned(),
        false => said,
    }
}

#[test]
fn before_and_after_the_agent_the_gate_is_as_the_configuration_says() {
    let Some(mut site) = Site::make("tracker-o", &Wanted::default()) else {
        return;
    };
    let config = site.device.folder.join("edge.toml");
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    let to = far.local_addr().unwrap();
    let send = |site: &Site, packets: u32| {
        for _ in 0..packets {
            let _ = near.send_to(&[9; 1_000], to);
        }
        site.passed()
    };
    // Before it: nothing. It is put there by whoever brings the network up.
    assert!(gate(&site, "shut").contains("nothing passes"));
    assert_eq!(send(&site, 100), 0);
    assert!(gate(&site, "shut").contains("nothing passes"), "again");
    assert_eq!(send(&site, 100), 0);
    site.start_agent();
    let passed = send(&site, 20);
    assert_eq!(passed, 20 * 1_028);
    // While it runs the table is its own.
    let said = gate(&site, "open");
    assert!(said.contains("end that agent first"), "{said}");
    // Dead, and fail-closed: where it was allowed to, and no later.
    site.kill9();
    let armed = number(&site.device.stored(), "armed");
    assert!(gate(&site, "agent-down").contains("stays"));
    let passed = send(&site, 2_000);
    assert!(passed <= armed, "{passed} passed, {armed} were armed");
    // Dead, and fail-open by choice: everything. It is metered when the agent is back.
    let text = fs::read_to_string(&config).unwrap();
    let kind = "kind = \"nft\"\n";
    let allow = format!("{kind}agent_down = \"allow\"\n");
    fs::write(&config, text.replace(kind, &allow)).unwrap();
    assert!(gate(&site, "agent-down").contains("everything passes"));
    assert_eq!(send(&site, 300), passed + 300 * 1_028);
    site.start_agent();
    let status = site.settled();
    assert!(number(&status, "used") > armed, "{status}");
    // An orderly end leaves nothing behind.
    let agent = site.device.process.as_mut().unwrap();
    agent.terminate().unwrap();
    agent.wait_exit(LIMIT).unwrap();
    assert!(!site.ruleset().contains("simquota_"), "{}", site.ruleset());
}
