//! The gate in the kernel beyond its plain case: hosts that stay reachable when the last grant is used up, agents
//! killed under load. Real packets between two network namespaces.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use simquota_tests::broker::Broker as _;
use simquota_tests::missing::missing_part;
use simquota_tests::netns::{DEVICE_IP, FAR, FAR_IP, Lab, SIM};
use simquota_tests::process::{Child, LIMIT, await_fact};

use crate::world::{Device, World, read};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
const EDGE: &str = "key_file = \"edge.key\"\ndata = \"data\"\n[quota]\nwant = \"WANT\"\n[broker]\nhost = \"198.18.0.2\"\nport = PORT\n[source]\ninterface = \"wwan0\"\nwait = true\npoll_ms = 200\n[gate]\nkind = \"nft\"\n[end]\nshutdown_s = 30\n";
/// A host behind the far end.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 7);

struct Site {
    lab: Lab,
    world: World,
    device: Device,
}

impl Site {
    /// `None`, said loudly, where namespaces and tables can't be made. `grant` is for the cloud's `[grant]`.
    fn start(test: &str, volume: &str, want: &str, grant: &str) -> Option<Site> {
        let lab = match Lab::make(true) {
            Ok(lab) => lab,
            Err(why) => {
                missing_part(&format!("root, ip, nft and veth ({test}: {why:#})"));
                return None;
            }
        };
        let mut world = World::start();
        let config = world.folder.path().join("cloud.toml");
        let text = read(&config).replace("[grant]\n", &format!("[grant]\n{grant}"));
        fs::write(&config, text).unwrap();
        world.cloud.as_mut().unwrap().kill9().unwrap();
        world.start_cloud();
        world.cloud(&["package", "buy", "--fleet", "buses", "--volume", volume]);
        let device = world.device(test, "", 1, want);
        let port = lab.relay(world.broker.port()).unwrap();
        let config = EDGE
            .replace("PORT", &port.to_string())
            .replace("WANT", want);
        fs::write(device.folder.join("edge.toml"), config).unwrap();
        lab.witness(port).unwrap();
        let mut site = Site { lab, world, device };
        site.start_agent(0);
        Some(site)
    }

    /// Starts it, and waits until this start of it is open.
    fn start_agent(&mut self, boots: u64) {
        let mut command = self.lab.device.command(DEMO);
        command
            .args(["edge", "run", "--json", "--config"])
            .arg(self.device.folder.join("edge.toml"));
        self.device.process = Some(Child::start(&self.device.id, &mut command).unwrap());
        self.device.await_status("is open", |status| {
            status["gate_open"] == true && status["boot"].as_u64() > Some(boots)
        });
    }

    fn socket(&self, address: impl Into<IpAddr>) -> UdpSocket {
        let address = address.into();
        self.lab
            .device
            .within(|| Ok(UdpSocket::bind((address, 0))?))
            .unwrap()
    }

    fn far_socket(&self, address: impl Into<IpAddr>) -> UdpSocket {
        let address = address.into();
        let socket = self
            .lab
            .far
            .within(|| Ok(UdpSocket::bind((address, 0))?))
            .unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// Waits until all that the link carried is metered.
    fn settled(&self) -> Value {
        await_fact(LIMIT, "all metered", || {
            let status = self.device.status()?;
            let (up, down) = self.lab.device.octets(SIM).unwrap();
            (status["used"] == up + down && status["request_open"] == false).then_some(status)
        })
        .unwrap_or_else(|error| panic!("{error}: {:?}", self.device.status()))
    }
}

/// Packets upwards, a thousand octets each, until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn on(socket: UdpSocket, to: impl Into<IpAddr>) -> Load {
        let to = to.into();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..10 {
                    // The gate refuses some of them: that is what it is for.
                    let _ = socket.send_to(&[7; 1_000], (to, 9));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Load {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn hosts_that_stay_reachable_are_reached_and_no_other() {
    let grant = format!("final = \"restrict\"\nfinal_hosts = [\"{HOST}\"]\n");
    let Some(site) = Site::start("tracker-r", "1MB", "1 MB", &grant) else {
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
    let load = Load::on(site.socket(DEVICE_IP), FAR_IP);
    site.device
        .await_status("has used up everything", |status| {
            status["state"] == "exhausted"
        });
    drop(load);
    let (near, allowed, other) = (
        site.socket(DEVICE_IP),
        site.far_socket(HOST),
        site.far_socket(FAR_IP),
    );
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
fn agents_killed_under_load_lose_nothing_and_let_nothing_pass_beyond_the_window() {
    const ROUNDS: u64 = 12;
    let Some(mut site) = Site::start("tracker-k", "200MB", "10 MB", "") else {
        return;
    };
    let load = Load::on(site.socket(DEVICE_IP), FAR_IP);
    for round in 1..=ROUNDS {
        let from = site.lab.witnessed().unwrap();
        await_fact(LIMIT, "traffic", || {
            (site.lab.witnessed().unwrap() > from + 100_000 * (1 + round % 4)).then_some(())
        })
        .unwrap();
        site.device.process.as_mut().unwrap().kill9().unwrap();
        let stored = site.device.stored();
        let (armed, used) = (number(&stored, "armed"), number(&stored, "used"));
        let passed = site.lab.witnessed().unwrap();
        assert!(passed <= armed, "{passed} passed, {armed} were armed");
        assert!(armed - used <= 1024 * 1024, "the window has a bound");
        site.start_agent(round);
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
