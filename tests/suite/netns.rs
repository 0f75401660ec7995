//! The gate in the kernel, on a SIM that is a veth pair between two network namespaces: real packets, a real table.

use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use simquota_tests::netns::{FAR, Family, Flood, SIM, Site, Wanted, bulk, number};
use simquota_tests::process::{LIMIT, await_fact};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// All of a package by a bulk transfer after the other, with the broker over the same family.
fn bulk_to_the_end(family: Family, down: bool) {
    const GRANT: u64 = 5_000_000;
    let wanted = Wanted {
        family,
        ..Wanted::default()
    };
    let Some(site) = Site::start("tracker-n", &wanted) else {
        return;
    };
    // A flow that waited for a grant may have given up: others go on.
    let mut flows = Vec::new();
    let status = await_fact(2 * LIMIT, "the end of the grant", || {
        if let Ok((near, far)) = site.lab.connect_over(family) {
            let (from, to) = if down { (far, near) } else { (near, far) };
            flows.push(bulk(from, to, 4 * GRANT).join().unwrap());
        }
        let status = site.device.status()?;
        let last = status["final_unit"] == true || status["answer_code"] == 4012;
        // What is left is less than a packet.
        (last && number(&status, "remaining") < 1_500).then_some(status)
    })
    .unwrap_or_else(|error| site.fail(&format!("{error}: {flows:?}")));
    let passed = site.passed();
    let carried = site.carried();
    println!(
        "{family:?}, down {down}: {passed} octets passed the gate for a grant of {GRANT}; the link carried {carried} ({} over); {flows:?}",
        carried.saturating_sub(GRANT),
    );
    assert!(passed <= GRANT, "{passed} octets passed a grant of {GRANT}");
    // Downlink the network has delivered, and the link has counted, what the gate then drops: a sender without any
    // limit loses much of its grant to that. Uplink what is dropped never reaches the link.
    assert!(
        down || passed > GRANT * 8 / 10,
        "{passed} octets passed, most of {GRANT} was there to be used"
    );
    let booked = site.settled();
    assert!(number(&booked, "used") >= carried, "{booked}");
    let told = flows.last().and_then(|ended| ended.sender);
    let reset = Some(ErrorKind::ConnectionReset);
    assert_eq!(told, reset, "the sender was told: {flows:?}");
    // What was delivered beyond the grant is a debt: the ceiling stands at it, and nothing was added.
    let (ceiling, used) = (number(&status, "ceiling"), number(&status, "used"));
    assert!(ceiling <= used.max(GRANT), "{status}");
    // No more passes than was left, but the agent does: it reports and is heard.
    let (near, far) = site.lab.sockets(family).unwrap();
    for _ in 0..10 {
        let _ = near.send_to(&[0; 500], far.local_addr().unwrap());
    }
    let more = site.passed() - passed;
    assert!(more <= number(&status, "remaining"), "{more} octets more");
    assert_eq!(status["connected"], true);
    assert!(site.ruleset().contains("simquota_wwan0"));
}

#[test]
fn bulk_traffic_stops_at_the_grant_and_both_ends_are_told() {
    for down in [true, false] {
        bulk_to_the_end(Family::V4, down);
    }
}

#[test]
fn bulk_traffic_stops_at_the_grant_over_ipv6_too() {
    for down in [true, false] {
        bulk_to_the_end(Family::V6, down);
    }
}

#[test]
fn a_dead_agent_lets_nothing_pass_beyond_its_armed_window() {
    let wanted = Wanted {
        volume: "50MB",
        want: "20 MB",
        ..Wanted::default()
    };
    let Some(mut site) = Site::start("tracker-d", &wanted) else {
        return;
    };
    let (near, far) = site.lab.connect().unwrap();
    let transfer = bulk(far, near, 40_000_000);
    site.device.await_status("is in the middle", |status| {
        status["used"].as_u64() > Some(1_000_000)
    });
    site.kill9();
    let stored = site.device.stored();
    let armed = number(&stored, "armed");
    let used = number(&stored, "used");
    // Until nothing passes for a whole second, with a sender that still tries.
    let mut last = site.passed();
    await_fact(LIMIT, "silence", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = site.passed();
        (std::mem::replace(&mut last, now) == now).then_some(())
    })
    .unwrap();
    println!("the agent died at {used} octets stored, {armed} armed; {last} passed");
    assert!(last <= armed, "{last} octets passed, {armed} were armed");
    // Downlink that the gate dropped was carried and is counted: the used total may stand past the window.
    assert!(
        armed.saturating_sub(used) <= 1024 * 1024,
        "the window has a bound"
    );
    // What passed since the last commit is in the kernel's counter: the next start has it all.
    site.start_agent();
    drop(transfer);
    let status = site.settled();
    assert_eq!(status["boot"], 2);
}

#[test]
fn a_top_up_in_mid_transfer_costs_no_packet() {
    const PACKETS: u32 = 3_000;
    // A tenth of a megabyte a second: windows and renewals have more than a second, however busy the disk is.
    let wanted = Wanted {
        volume: "1MB",
        want: "750 kB",
        ..Wanted::default()
    };
    let Some(site) = Site::start("tracker-u", &wanted) else {
        return;
    };
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    let to = far.local_addr().unwrap();
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let receiver = std::thread::spawn(move || {
        let mut seen = 0;
        let mut block = [0; 2_000];
        while seen < PACKETS && far.recv(&mut block).is_ok() {
            seen += 1;
        }
        seen
    });
    let mut refused = 0;
    for n in 0..PACKETS {
        // 1.6 MB in all, through a package of 1 MB and a top-up before its last grant.
        if n == PACKETS / 6 {
            site.buy("20MB");
        }
        refused += u32::from(near.send_to(&[7; 500], to).is_err());
        std::thread::sleep(Duration::from_millis(5));
    }
    let seen = receiver.join().unwrap();
    println!("{seen} of {PACKETS} packets arrived, {refused} were refused");
    let status = site.settled();
    assert_eq!((seen, refused), (PACKETS, 0));
    assert!(number(&status, "used") > 1_500_000);
}

#[test]
fn what_is_metered_is_what_the_far_end_counts() {
    for segments in [true, false] {
        let wanted = Wanted {
            volume: "100MB",
            want: "5 MB",
            segments,
            ..Wanted::default()
        };
        let Some(site) = Site::start("tracker-e", &wanted) else {
            return;
        };
        for round in 0..2 {
            let (near, far) = site.lab.connect().unwrap();
            bulk(far, near, 2_000_000).join().unwrap();
            let (near, far) = site.lab.connect().unwrap();
            bulk(near, far, 1_000_000).join().unwrap();
            if round == 0 {
                // A rename keeps the counter, and the agent waits for the name to come back.
                site.lab.device.ip(&format!("link set {SIM} down")).unwrap();
                site.lab
                    .device
                    .ip(&format!("link set {SIM} name other0"))
                    .unwrap();
                site.lab
                    .device
                    .ip(&format!("link set other0 name {SIM}"))
                    .unwrap();
                site.lab.device.ip(&format!("link set {SIM} up")).unwrap();
                site.device
                    .await_status("is open again", |status| status["gate_open"] == true);
            }
        }
        let status = site.settled();
        let (far_up, far_down) = site.lab.far.octets(FAR).unwrap();
        let shown = site.world.show(&site.device);
        println!(
            "segments {segments}: the far end counts {}, metered {}, charged so far {}",
            far_up + far_down,
            status["used"],
            shown["charged"]
        );
        assert_eq!(number(&status, "used"), far_up + far_down);
        site.world.audit();
    }
}

#[test]
fn a_foreign_flush_passes_the_table_by() {
    let wanted = Wanted {
        volume: "2MB",
        ..Wanted::default()
    };
    let Some(site) = Site::start("tracker-f", &wanted) else {
        return;
    };
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    // As fast as it can: what passed unfenced would be far more than an allowance.
    let flood = Flood::unending(near, far.local_addr().unwrap());
    for bought in [2_000_000, 4_000_000, 6_000_000] {
        let status = await_fact(
            2 * LIMIT,
            "all of it used, but for less than a packet",
            || {
                let status = site.device.status()?;
                (number(&status, "used") > bought - 1_500).then_some(status)
            },
        )
        .unwrap_or_else(|error| site.fail(&error));
        site.lab.device.nft("flush ruleset\n").unwrap();
        let touched = site
            .lab
            .device
            .nft("delete table inet simquota_wwan0\n")
            .is_ok();
        assert!(!touched, "it is the agent's alone");
        assert!(site.ruleset().contains("simquota_wwan0"));
        assert_eq!(status["gate_remade"], 0);
        site.buy("2MB");
    }
    site.device.await_status("has all of it", |status| {
        status["used"].as_u64() > Some(7_000_000)
    });
    drop(flood);
    let status = site.settled();
    println!(
        "three flushes and {} metered of {}",
        status["used"], status["ceiling"]
    );
    assert!(
        number(&status, "used") <= number(&status, "stop"),
        "{status}"
    );
    assert_eq!(status["gate_remade"], 0);
}

#[test]
fn a_foreign_flush_of_a_shared_table_is_mended_and_reported() {
    const WINDOW_MOST: u64 = 1024 * 1024;
    let wanted = Wanted {
        volume: "1MB",
        // What passes unfenced must not silence the agent.
        grant: "allowance = \"1 MB\"\n",
        gate: "table = \"shared\"\n",
        ..Wanted::default()
    };
    let Some(site) = Site::start("tracker-g", &wanted) else {
        return;
    };
    // A megabyte a second.
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    let flood = Flood::paced(near, far.local_addr().unwrap(), Duration::from_millis(10));
    let before = site.used_up();
    assert_eq!(before["gate_remade"], 0, "{before}");
    let carried = site.carried();
    site.lab.device.nft("flush ruleset\n").unwrap();
    site.device.await_status("made its table again", |status| {
        status["gate_remade"].as_u64() >= Some(1)
    });
    drop(flood);
    let status = site.settled();
    let unfenced = site.carried() - carried;
    println!(
        "{unfenced} octets were carried from the flush until the table was made again; {status}"
    );
    assert!(unfenced <= WINDOW_MOST, "{unfenced} octets passed unfenced");
    assert!(site.ruleset().contains("simquota_wwan0"));
    let output = Command::new(DEMO)
        .args(["edge", "status", "--config"])
        .arg(site.device.folder.join("edge.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("somebody else"), "{said}");
    // What passed is booked, and the next grant goes where it ends.
    site.buy("3MB");
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    let flood = Flood::unending(near, far.local_addr().unwrap());
    site.device.await_status("goes on", |status| {
        status["used"].as_u64() > Some(3_990_000)
    });
    drop(flood);
    let status = site.settled();
    assert!(
        number(&status, "used") <= number(&status, "stop"),
        "{status}"
    );
    site.world.audit();
}
