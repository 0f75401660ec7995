//! The gate in the kernel beyond its plain case: hosts that stay reachable when the last grant is used up, agents
//! killed under load. Real packets between two network namespaces.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use simquota_tests::netns::{FAR, FAR_IP, Family, Flood, SIM, Site, Wanted, bulk, number};
use simquota_tests::process::{LIMIT, await_fact};

/// A host behind the far end.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 7);

/// Five megabytes a second upwards, at most.
fn load(site: &Site) -> Flood {
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    Flood::paced(near, far.local_addr().unwrap(), Duration::from_millis(2))
}

#[test]
fn hosts_that_stay_reachable_are_reached_and_no_other() {
    let grant = format!("final = \"restrict\"\nfinal_hosts = [\"{HOST}\"]\n");
    let wanted = Wanted {
        volume: "1MB",
        grant: &grant,
        ..Wanted::default()
    };
    let Some(site) = Site::start("tracker-r", &wanted) else {
        return;
    };
    site.lab
        .far
        .ip(&format!("addr add {HOST}/32 dev lo"))
        .unwrap();
    site.lab
        .device
        .ip(&format!("route add {HOST} via {FAR_IP} dev {SIM}"))
        .unwrap();
    let load = load(&site);
    site.device
        .await_status("has used up everything", |status| {
            status["state"] == "exhausted"
        });
    drop(load);
    let far_socket = |address: Ipv4Addr| {
        let bound = site.lab.far.within(|| Ok(UdpSocket::bind((address, 0))?));
        let socket = bound.unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let (near, _) = site.lab.sockets(Family::V4).unwrap();
    let (allowed, other) = (far_socket(HOST), far_socket(FAR_IP));
    let targets = [other.local_addr().unwrap(), allowed.local_addr().unwrap()];
    let mut heard = 0;
    await_fact(LIMIT, "the allowed host", || {
        for target in targets {
            let _ = near.send_to(b"help", target);
        }
        heard += u32::from(allowed.recv(&mut [0; 100]).is_ok());
        (heard == 20).then_some(())
    })
    .unwrap();
    let refused = other.recv(&mut [0; 100]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    let status = site.settled();
    assert!(
        number(&status, "used") <= number(&status, "stop"),
        "{status}"
    );
}

#[test]
fn a_slowed_flow_lives_beyond_the_last_grant() {
    const PAYLOAD: u64 = 600_000;
    // 100 kB a second, after a grant of half of what is sent.
    let wanted = Wanted {
        volume: "300kB",
        grant: "final = \"throttle\"\nfinal_bit_per_s = 800000\nallowance = \"2 MB\"\n",
        ..Wanted::default()
    };
    for down in [false, true] {
        let Some(site) = Site::start("tracker-s", &wanted) else {
            return;
        };
        let (near, far) = site.lab.connect().unwrap();
        let (from, to) = if down { (far, near) } else { (near, far) };
        let flow = bulk(from, to, PAYLOAD).join().unwrap();
        let status = site.settled();
        let stopped = site.gate_counted("stopped");
        println!("down {down}: {flow:?}; {stopped} octets were dropped; {status}");
        assert_eq!(
            (flow.received, flow.sender, flow.receiver),
            (PAYLOAD, None, None)
        );
        assert!(stopped > 0, "it was slowed");
        let (used, ceiling) = (number(&status, "used"), number(&status, "ceiling"));
        assert!(
            used > 600_000 && used <= number(&status, "stop"),
            "{status}"
        );
        assert!(ceiling <= used.max(300_000), "{status}");
        site.world.audit();
    }
}

#[test]
fn slowed_traffic_ends_where_the_allowance_does() {
    // Fast enough that the stop is reached at once, and no answer comes so often.
    let wanted = Wanted {
        volume: "300kB",
        grant: "final = \"throttle\"\nfinal_bit_per_s = 80000000\nallowance = \"200 kB\"\n",
        ..Wanted::default()
    };
    let Some(site) = Site::start("tracker-t", &wanted) else {
        return;
    };
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    let load = Flood::unending(near, far.local_addr().unwrap());
    await_fact(2 * LIMIT, "the allowance to end", || {
        let status = site.device.status()?;
        (number(&status, "used") + 1_500 > number(&status, "stop")).then_some(())
    })
    .unwrap_or_else(|error| site.fail(&error));
    drop(load);
    // A request may stay unanswered: not a packet of the agent's own fits below the stop any more.
    let status = await_fact(LIMIT, "all metered", || {
        let status = site.device.status()?;
        (number(&status, "used") == site.carried()).then_some(status)
    })
    .unwrap_or_else(|error| site.fail(&error));
    println!("{} passed; {status}", site.passed());
    assert!(
        number(&status, "used") <= number(&status, "stop"),
        "{status}"
    );
}

#[test]
fn agents_killed_under_load_lose_nothing_and_let_nothing_pass_beyond_the_window() {
    const ROUNDS: u64 = 12;
    let wanted = Wanted {
        volume: "200MB",
        want: "10 MB",
        ..Wanted::default()
    };
    let Some(mut site) = Site::start("tracker-k", &wanted) else {
        return;
    };
    let load = load(&site);
    for round in 1..=ROUNDS {
        let from = site.passed();
        await_fact(LIMIT, "traffic", || {
            (site.passed() > from + 100_000 * (1 + round % 4)).then_some(())
        })
        .unwrap();
        site.kill9();
        let stored = site.device.stored();
        let (armed, used) = (number(&stored, "armed"), number(&stored, "used"));
        let passed = site.passed();
        assert!(passed <= armed, "{passed} passed, {armed} were armed");
        assert!(armed - used <= 1024 * 1024, "the window has a bound");
        site.start_agent();
    }
    drop(load);
    let status = site.settled();
    let (up, down) = site.lab.far.octets(FAR).unwrap();
    println!(
        "{ROUNDS} kills: {} metered, the far end counts {}",
        status["used"],
        up + down
    );
    assert_eq!(number(&status, "used"), up + down);
    site.world.audit();
}
