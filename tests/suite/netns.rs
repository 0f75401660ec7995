//! The gate in the kernel, on a SIM that is a veth pair between two network namespaces: real packets, a real table.

use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use simquota_tests::broker::Broker as _;
use simquota_tests::missing::missing_part;
use simquota_tests::netns::{DEVICE_IP, FAR, Lab, SIM, bulk};
use simquota_tests::process::{Child, LIMIT, await_fact};

use crate::world::{Device, World};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// What differs from the shipped edge.toml.
const EDGE: &str = "key_file = \"edge.key\"\ndata = \"data\"\n[quota]\nwant = \"WANT\"\n[broker]\nhost = \"198.18.0.2\"\nport = PORT\n[source]\ninterface = \"wwan0\"\nwait = true\npoll_ms = 200\n[gate]\nkind = \"nft\"\n[end]\nshutdown_s = 30\n";

/// A device on its SIM, with a package.
struct Site {
    lab: Lab,
    world: World,
    device: Device,
    port: u16,
}

impl Site {
    /// `None`, said loudly, where namespaces and tables can't be made.
    fn start(test: &str, volume: &str, want: &str, segments: bool) -> Option<Site> {
        let lab = match Lab::make(segments) {
            Ok(lab) => lab,
            Err(why) => {
                missing_part(&format!("root, ip, nft and veth ({test}: {why:#})"));
                return None;
            }
        };
        let world = World::start();
        world.cloud(&[
            "package", "buy", "--fleet", "buses", "--volume", volume, "--id", "first",
        ]);
        let device = world.device(test, "", 1, want);
        let port = lab.relay(world.broker.port()).unwrap();
        let config = EDGE
            .replace("PORT", &port.to_string())
            .replace("WANT", want);
        fs::write(device.folder.join("edge.toml"), config).unwrap();
        lab.witness(port).unwrap();
        let mut site = Site {
            lab,
            world,
            device,
            port,
        };
        site.start_agent();
        Some(site)
    }

    fn start_agent(&mut self) {
        let mut command = self.lab.device.command(DEMO);
        command
            .args(["edge", "run", "--json", "--config"])
            .arg(self.device.folder.join("edge.toml"));
        self.device.process = Some(Child::start(&self.device.id, &mut command).unwrap());
        self.device
            .await_status("is open", |status| status["gate_open"] == true);
    }

    fn kill9(&mut self) {
        self.device.process.as_mut().unwrap().kill9().unwrap();
    }

    /// Waits until the agent has metered all that the link carried; the last status. The last row may still wait for
    /// company: the agent's own octets alone are not reported.
    fn settled(&self) -> Value {
        let device = &self.device;
        let link = || self.lab.device.octets(SIM).unwrap();
        await_fact(LIMIT, "all metered", || {
            let status = device.status()?;
            let (up, down) = link();
            let all = status["used"] == up + down;
            // The agent's own octets alone wait for company.
            let quiet = status["request_open"] == false;
            (all && quiet).then_some(status)
        })
        .unwrap_or_else(|error| {
            let (up, down) = link();
            panic!(
                "{error}: the link has {up} + {down}, the agent says {:?}; log {:#?}",
                device.status(),
                device.process.as_ref().map(Child::tail)
            )
        })
    }

    /// All tables as the kernel has them.
    fn ruleset(&self) -> String {
        self.lab.device.nft("list ruleset\n").unwrap()
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn bulk_traffic_stops_at_the_grant_and_both_ends_are_told() {
    const GRANT: u64 = 5_000_000;
    for down in [true, false] {
        let Some(site) = Site::start("tracker-n", "5MB", "1 MB", true) else {
            return;
        };
        // The last grant is used up, or what is left of it is less than a packet.
        let at_end = |status: &Value| {
            let left = number(status, "remaining");
            let last = status["final_unit"] == true || status["answer_code"] == 4012;
            last && left < 1_500
        };
        // A flow that waited for a grant may have given up: others go on.
        let mut flows = Vec::new();
        let status = await_fact(2 * LIMIT, "the end of the grant", || {
            if let Ok((near, far)) = site.lab.connect() {
                let (from, to) = if down { (far, near) } else { (near, far) };
                flows.push(bulk(from, to, 4 * GRANT).join().unwrap());
            }
            site.device.status().filter(at_end)
        })
        .unwrap_or_else(|error| {
            let status = site.device.status();
            panic!("{error}: {flows:?}; {status:?}; {}", site.ruleset())
        });
        let passed = site.lab.witnessed().unwrap();
        let (up, received) = site.lab.device.octets(SIM).unwrap();
        println!(
            "down {down}: {passed} octets passed the gate for a grant of {GRANT}; the link carried {} ({} over); {flows:?}",
            up + received,
            (up + received).saturating_sub(GRANT),
        );
        assert!(passed <= GRANT, "{passed} octets passed a grant of {GRANT}");
        // Downlink the network has delivered, and the link has counted, what the gate then drops: a sender without any
        // limit loses much of its grant to that. Uplink what is dropped never reaches the link.
        assert!(
            down || passed > GRANT * 8 / 10,
            "{passed} octets passed, most of {GRANT} was there to be used"
        );
        let booked = site.settled();
        assert!(number(&booked, "used") >= up + received, "{booked}");
        let told = flows.last().and_then(|ended| ended.sender);
        let reset = Some(ErrorKind::ConnectionReset);
        assert_eq!(told, reset, "the sender was told: {flows:?}");
        // What was delivered beyond the grant is a debt: the ceiling stands at it, and nothing was added.
        let (ceiling, used) = (number(&status, "ceiling"), number(&status, "used"));
        assert!(ceiling <= used.max(GRANT), "{status}");
        // No more passes than was left, but the agent does: it reports and is heard.
        let near = site
            .lab
            .device
            .within(|| Ok(UdpSocket::bind((DEVICE_IP, 0))?))
            .unwrap();
        for _ in 0..10 {
            let _ = near.send_to(&[0; 500], "198.18.0.2:9");
        }
        let more = site.lab.witnessed().unwrap() - passed;
        assert!(more <= number(&status, "remaining"), "{more} octets more");
        assert_eq!(status["connected"], true);
        assert!(site.ruleset().contains("simquota_wwan0"));
    }
}

#[test]
fn a_dead_agent_lets_nothing_pass_beyond_its_armed_window() {
    let Some(mut site) = Site::start("tracker-d", "50MB", "20 MB", true) else {
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
    let mut last = site.lab.witnessed().unwrap();
    await_fact(LIMIT, "silence", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = site.lab.witnessed().unwrap();
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
    let Some(site) = Site::start("tracker-u", "1MB", "750 kB", true) else {
        return;
    };
    let far = site
        .lab
        .far
        .within(|| Ok(UdpSocket::bind("198.18.0.2:0")?))
        .unwrap();
    let to = far.local_addr().unwrap();
    let near = site
        .lab
        .device
        .within(|| Ok(UdpSocket::bind((DEVICE_IP, 0))?))
        .unwrap();
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
            site.world.cloud(&[
                "package", "buy", "--fleet", "buses", "--volume", "20MB", "--id", "second",
            ]);
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
        let Some(site) = Site::start("tracker-e", "100MB", "5 MB", segments) else {
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
fn a_foreign_flush_is_mended_and_reported() {
    let Some(site) = Site::start("tracker-f", "5MB", "1 MB", true) else {
        return;
    };
    let (near, far) = site.lab.connect().unwrap();
    let transfer = bulk(far, near, 40_000_000);
    site.device.await_status("is in the middle", |status| {
        status["used"].as_u64() > Some(500_000)
    });
    site.lab.device.nft("flush ruleset\n").unwrap();
    let status = site.device.await_status("made its table again", |status| {
        status["gate_remade"].as_u64() >= Some(1)
    });
    transfer.join().unwrap();
    // A flow that the flush held up may have given up: others go on until the grant is used up.
    let last = await_fact(2 * LIMIT, "the end of the grant", || {
        let status = site.device.status()?;
        if status["remaining"] == 0 {
            return Some(status);
        }
        if let Ok((near, far)) = site.lab.connect() {
            let _ = bulk(far, near, 1_000_000).join();
        }
        None
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", site.device.status()));
    println!(
        "after {} octets the table was made again; {last}",
        status["used"]
    );
    assert!(site.ruleset().contains("simquota_wwan0"));
    let output = Command::new(DEMO)
        .args(["edge", "status", "--config"])
        .arg(site.device.folder.join("edge.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("somebody else"), "{said}");
    assert!(site.port > 0);
}
