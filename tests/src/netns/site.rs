//! A device on a [`Lab`]'s SIM: the cloud behind it, and an agent whose gate is in the kernel.
//!
//! It is for tests and proofs, as [`World`] is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and so does its harness"
)]

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{FAR, Family, Lab};
use crate::broker::Broker as _;
use crate::missing::missing_part;
use crate::process::{Child, LIMIT, await_fact};
use crate::world::{Device, World, program, read};

/// What differs from the shipped edge.toml.
const EDGE: &str = "key_file = \"edge.key\"\ndata = \"data\"\n[quota]\nwant = \"WANT\"\n[broker]\nhost = \"HOST\"\nport = PORT\n[source]\ninterface = \"wwan0\"\nwait = true\npoll_ms = 200\n[gate]\nkind = \"nft\"\nGATE[end]\nshutdown_s = 30\n";

/// What a site is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The package that the fleet has.
    pub volume: &'a str,
    /// What the device asks for at a time.
    pub want: &'a str,
    /// Lines for the cloud's `[grant]`.
    pub grant: &'a str,
    /// Lines for the device's `[gate]`.
    pub gate: &'a str,
    /// Packets are as large on the link as on the air.
    pub segments: bool,
    /// The SIM's interface can be replaced, see [`Lab::replace`]. Packets are as large as on the air then.
    pub replaceable: bool,
    /// What the agent reaches the broker over. With IPv6 both ends have addresses of both families.
    pub family: Family,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Wanted {
            volume: "5MB",
            want: "1 MB",
            grant: "",
            gate: "",
            segments: true,
            replaceable: false,
            family: Family::V4,
        }
    }
}

/// A device on its SIM, with a package.
pub struct Site {
    /// Both ends of the SIM.
    pub lab: Lab,
    /// Broker and cloud.
    pub world: World,
    /// The device.
    pub device: Device,
    /// The broker's port at the far end.
    pub port: u16,
    /// What the far end's link had carried before there was an agent.
    before: u64,
}

impl Site {
    /// With its agent running and its gate open. `None`, said loudly, where namespaces and tables can't be made.
    #[must_use]
    pub fn start(test: &str, wanted: &Wanted<'_>) -> Option<Site> {
        let mut site = Site::make(test, wanted)?;
        site.start_agent();
        Some(site)
    }

    /// Without its agent.
    #[must_use]
    pub fn make(test: &str, wanted: &Wanted<'_>) -> Option<Site> {
        let lab = match wanted.replaceable {
            true => Lab::make_replaceable(),
            false => Lab::make(wanted.segments),
        };
        let made = lab.and_then(|lab| {
            if wanted.family == Family::V6 {
                lab.plug_ipv6()?;
            }
            Ok(lab)
        });
        let lab = match made {
            Ok(lab) => lab,
            Err(why) => {
                missing_part(&format!("root, ip, nft and veth ({test}: {why:#})"));
                return None;
            }
        };
        let mut world = World::start();
        if !wanted.grant.is_empty() {
            let config = world.folder.path().join("cloud.toml");
            let grant = format!("[grant]\n{}", wanted.grant);
            fs::write(&config, read(&config).replace("[grant]\n", &grant)).unwrap();
            world.cloud.as_mut().unwrap().kill9().unwrap();
            world.start_cloud();
        }
        let device = world.device(test, "", 1, wanted.want);
        let port = lab.relay_over(wanted.family, world.broker.port()).unwrap();
        let config = EDGE
            .replace("HOST", &wanted.family.far().to_string())
            .replace("PORT", &port.to_string())
            .replace("WANT", wanted.want)
            .replace("GATE", wanted.gate);
        fs::write(device.folder.join("edge.toml"), config).unwrap();
        lab.witness(port).unwrap();
        let mut site = Site {
            lab,
            world,
            device,
            port,
            before: 0,
        };
        site.before = site.carried();
        let bought = [
            "package",
            "buy",
            "--fleet",
            "buses",
            "--volume",
            wanted.volume,
        ];
        site.world.cloud(&bought);
        Some(site)
    }

    /// Buys a package for the device, which is told at once.
    pub fn buy(&self, volume: &str) {
        let bought = ["package", "buy", "--fleet", "buses", "--volume", volume];
        let device = ["--device", &self.device.id];
        self.world.cloud(&[&bought[..], &device[..]].concat());
    }

    /// Starts the agent, and waits until this start of it is open.
    pub fn start_agent(&mut self) {
        self.restart_agent();
        self.device
            .await_status("is open", |status| status["gate_open"] == true);
    }

    /// Starts the agent again, whose gate may have to stay shut.
    pub fn restart_agent(&mut self) {
        let before = self.device.status();
        let boots = before.map_or(0, |status| number(&status, "boot"));
        self.spawn(&[program().to_str().unwrap()]);
        self.device.await_status("runs", |status| {
            status["boot"].as_u64() > Some(boots) && status["registered"] == true
        });
    }

    /// Starts the agent in the device, as the last words of this command.
    pub fn spawn(&mut self, command: &[&str]) {
        let (first, rest) = command.split_first().unwrap();
        let mut command: Command = self.lab.device.command(first);
        command
            .args(rest)
            .args(["edge", "run", "--json", "--config"])
            .arg(self.device.folder.join("edge.toml"));
        self.device.process = Some(Child::start(&self.device.id, &mut command).unwrap());
    }

    /// Kills the agent.
    pub fn kill9(&mut self) {
        self.device.process.as_mut().unwrap().kill9().unwrap();
    }

    /// Up + down of the far end's link since the site was made, as IP octets.
    #[must_use]
    pub fn carried(&self) -> u64 {
        let (up, down) = self.lab.far.octets(FAR).unwrap();
        up + down - self.before
    }

    /// Waits until all that the far end's link carried is metered; the last status. The last row may still wait for
    /// company: the agent's own octets alone are not reported.
    #[must_use]
    pub fn settled(&self) -> Value {
        await_fact(LIMIT, "all metered", || {
            let status = self.device.status()?;
            let all = status["used"] == self.carried();
            (all && status["request_open"] == false).then_some(status)
        })
        .unwrap_or_else(|error| self.fail(&error))
    }

    /// Waits until the last grant is used up, or what is left of it is less than a packet; the status then.
    pub fn used_up(&self) -> Value {
        await_fact(2 * LIMIT, "the end of the grant", || {
            let status = self.device.status()?;
            let last = status["final_unit"] == true || status["answer_code"] == 4012;
            (last && number(&status, "remaining") < 1_500).then_some(status)
        })
        .unwrap_or_else(|error| self.fail(&error))
    }

    /// Ends the agent in order: what it has metered is what the ledger has charged then, and the agent's own last octets,
    /// which wait for company. Returns it.
    pub fn booked(&mut self) -> u64 {
        let agent = self.device.process.as_mut().unwrap();
        agent.terminate().unwrap();
        agent.wait_exit(2 * LIMIT).unwrap();
        let used = number(&self.device.stored(), "used");
        let output = Command::new(program())
            .args(["edge", "outbox", "--json", "--config"])
            .arg(self.device.folder.join("edge.toml"))
            .output()
            .unwrap();
        let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = rows.as_array().into_iter().flatten();
        let waiting: u64 = rows
            .map(|row| number(row, "up") + number(row, "down"))
            .sum();
        let shown = self.world.show(&self.device);
        assert_eq!(number(&shown, "charged") + waiting, used, "{shown}");
        assert!(waiting < 64 * 1024, "{waiting} are the agent's own");
        self.world.audit();
        used
    }

    /// All that is known, and the end of the test.
    pub fn fail(&self, error: &dyn std::fmt::Display) -> ! {
        panic!(
            "{error}: the link has {}, the witness {:?}; {:?}; {}; log {:#?}",
            self.carried(),
            self.lab.witnessed().ok(),
            self.device.status(),
            self.ruleset(),
            self.device.process.as_ref().map(Child::tail)
        )
    }

    /// All tables as the kernel has them.
    #[must_use]
    pub fn ruleset(&self) -> String {
        self.lab.device.nft("list ruleset\n").unwrap()
    }

    /// What a counter of the gate's own table shows.
    #[must_use]
    pub fn gate_counted(&self, counter: &str) -> u64 {
        let mut nft = self.lab.device.command("nft");
        let listed = nft.args(["-j", "list", "counters"]).output().unwrap();
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let counters = listed["nftables"].as_array().into_iter().flatten();
        counters
            .filter_map(|one| one.get("counter"))
            .find(|one| one["name"] == counter && one["table"] != "witness")
            .map_or(0, |one| number(one, "bytes"))
    }

    /// Octets that have passed the gate.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.lab.witnessed().unwrap()
    }
}

/// A number of a status.
#[must_use]
pub fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}
