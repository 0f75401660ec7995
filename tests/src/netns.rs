//! A device and the network behind its SIM, as two network namespaces of the kernel with a veth pair between them.
//!
//! They are made by a test and gone when it ends. The far end reaches brokers of this process through a relay, because
//! a socket belongs to the namespace that it was made in, whoever uses it later.

mod load;
mod modem;
mod second;
mod site;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::process::{LIMIT, await_fact};

pub use load::{Ended, Flood, bulk};
pub use second::{BROKER_IP, OTHER};
pub use site::{Site, Wanted, number};

/// The interface of the SIM, in the device.
pub const SIM: &str = "wwan0";
/// The other end of it.
pub const FAR: &str = "peer0";
/// The device's address, and the one at the far end.
pub const DEVICE_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// See [`DEVICE_IP`].
pub const FAR_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// The same over IPv6: see [`Lab::plug_ipv6`].
pub const DEVICE_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x5117, 0, 0, 0, 0, 0, 1);
/// See [`DEVICE_IP6`].
pub const FAR_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x5117, 0, 0, 0, 0, 0, 2);

/// Which internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6; see [`Lab::plug_ipv6`].
    V6,
}

impl Family {
    /// The device's address.
    #[must_use]
    pub const fn device(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(DEVICE_IP),
            Family::V6 => IpAddr::V6(DEVICE_IP6),
        }
    }

    /// The far end's.
    #[must_use]
    pub const fn far(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(FAR_IP),
            Family::V6 => IpAddr::V6(FAR_IP6),
        }
    }
}

/// The kernel's own chatter is over when there was none for so long.
const QUIET: Duration = Duration::from_millis(1_500);

/// Names begin so, and with the id of the process that made them.
const PREFIX: &str = "sqt";
static MADE: AtomicU32 = AtomicU32::new(0);

/// Runs a program to its end.
///
/// # Errors
/// When it fails; the text says what it said.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ip(line: &str) -> anyhow::Result<String> {
    run("ip", &line.split(' ').collect::<Vec<_>>())
}

/// A command that will run in the network namespace that the kernel shows at `path`, with the mounts of this process.
#[must_use]
pub fn entering(path: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args([&format!("--net={path}"), program]);
    command
}

/// A network namespace, deleted when it is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    fn make(role: &str) -> anyhow::Result<Namespace> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let namespace = Namespace { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// `ip` in it.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, line: &str) -> anyhow::Result<String> {
        ip(&format!("-n {} {line}", self.name))
    }

    /// A command that will run in it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Where the kernel shows it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// `nft` in it: a script.
    ///
    /// # Errors
    /// When it is refused.
    pub fn nft(&self, script: &str) -> anyhow::Result<String> {
        let mut child = self
            .command("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Does something on a thread that lives in it: sockets made there are its own.
    ///
    /// # Errors
    /// When the namespace can't be entered; and what `work` returns.
    pub fn within<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let file = File::open(self.path())?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            thread.join().unwrap_or_else(|_| bail!("it panicked"))
        })
    }

    /// Up and down of a link as the driver counts it, in IP octets: 14 less for each packet.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn octets(&self, link: &str) -> anyhow::Result<(u64, u64)> {
        // Of the thread that reads: `/sys` would show the links of the namespace that it was mounted in.
        let shown = self.within(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let counters = shown.lines().find_map(|line| {
            let (name, counters) = line.trim_start().split_once(':')?;
            (name == link).then_some(counters)
        });
        let counters: Vec<u64> = counters
            .into_iter()
            .flat_map(str::split_whitespace)
            .map_while(|counter| counter.parse().ok())
            .collect();
        // Octets and packets begin eight columns received, and then eight sent.
        let of = |first: usize| {
            let (octets, packets) = (counters.get(first)?, counters.get(first + 1)?);
            octets.checked_sub(packets.checked_mul(14)?)
        };
        let (Some(up), Some(down)) = (of(8), of(0)) else {
            bail!("{link} has no counters: {shown}");
        };
        Ok((up, down))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It may be gone already, and nobody is left to be told.
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// Deletes what processes left behind that were killed.
fn sweep() {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        let lives = |pid: &str| fs::exists(format!("/proc/{pid}")).unwrap_or(true);
        if maker.is_some_and(|(pid, _)| !lives(pid)) {
            // Another process may be quicker.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// The device's namespace and the far end's, connected by the SIM.
#[derive(Debug)]
pub struct Lab {
    /// The device.
    pub device: Namespace,
    /// The network behind the SIM.
    pub far: Namespace,
}

impl Lab {
    /// Both, with the SIM up. `segments`: packets are as large on the link as on the air; else the kernel's large
    /// segments pass.
    ///
    /// # Errors
    /// Without root, `ip`, `nft`, `nsenter` or veth; the text says which.
    pub fn make(segments: bool) -> anyhow::Result<Lab> {
        run("nft", &["--version"])?;
        run("nsenter", &["--version"])?;
        sweep();
        let lab = Lab {
            device: Namespace::make("dev")?,
            far: Namespace::make("far")?,
        };
        lab.plug(segments)?;
        Ok(lab)
    }

    /// Makes the SIM's link.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug(&self, segments: bool) -> anyhow::Result<()> {
        let (device, far) = (&self.device.name, &self.far.name);
        ip(&format!(
            "link add {SIM} netns {device} type veth peer name {FAR} netns {far}"
        ))?;
        for (namespace, link, address) in [(&self.device, SIM, DEVICE_IP), (&self.far, FAR, FAR_IP)]
        {
            // No chatter of the kernel's own.
            namespace.ip(&format!("link set {link} addrgenmode none"))?;
            if segments {
                namespace.ip(&format!("link set {link} gso_max_segs 1 gro_max_size 1500"))?;
            }
            namespace.ip(&format!("addr add {address}/30 dev {link}"))?;
            namespace.ip(&format!("link set {link} up"))?;
        }
        Ok(())
    }

    /// Gives both ends an IPv6 address. Each knows the other's link address, so nobody has to ask for it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug_ipv6(&self) -> anyhow::Result<()> {
        let ends = [
            (&self.device, SIM, DEVICE_IP6, FAR_IP6),
            (&self.far, FAR, FAR_IP6, DEVICE_IP6),
        ];
        let mut link_addresses = Vec::new();
        for (namespace, link, address, _) in ends {
            namespace.ip(&format!("addr add {address}/64 dev {link} nodad"))?;
            let shown: Value =
                serde_json::from_str(&namespace.ip(&format!("-j link show dev {link}"))?)?;
            let address = shown.get(0).and_then(|link| link.get("address")?.as_str());
            link_addresses.push(address.context("a link has an address")?.to_owned());
        }
        for ((namespace, link, _, other), address) in
            ends.into_iter().zip(link_addresses.iter().rev())
        {
            namespace.ip(&format!(
                "neigh replace {other} lladdr {address} dev {link} nud permanent"
            ))?;
        }
        // The kernel tells its routers which groups it listens to, and repeats it within a second.
        let mut last = None;
        await_fact(LIMIT, "the kernel to be silent", || {
            std::thread::sleep(QUIET);
            let now = self.far.octets(FAR).ok();
            (std::mem::replace(&mut last, now) == now).then_some(())
        })
    }

    /// Takes it away.
    ///
    /// # Errors
    /// When there is none.
    pub fn unplug(&self) -> anyhow::Result<()> {
        self.device.ip(&format!("link del {SIM}")).map(drop)
    }

    /// Lets the device reach a port of this process's loopback at the far end; returns the port there.
    ///
    /// # Errors
    /// When the port can't be taken.
    pub fn relay(&self, to: u16) -> anyhow::Result<u16> {
        self.relay_over(Family::V4, to)
    }

    /// The same over that family.
    ///
    /// # Errors
    /// When the port can't be taken.
    pub fn relay_over(&self, family: Family, to: u16) -> anyhow::Result<u16> {
        let at = (family.far(), 0);
        let listener = self.far.within(|| Ok(TcpListener::bind(at)?))?;
        let port = listener.local_addr()?.port();
        pass_on_from(listener, to);
        Ok(port)
    }

    /// Counts what passes the gate on the SIM, both ways, but for what passes on the allowance: traffic of `port`, the
    /// ends of flows, neighbours. A table of our own, behind all others.
    ///
    /// # Errors
    /// When it is refused.
    pub fn witness(&self, port: u16) -> anyhow::Result<()> {
        let counted = format!(
            "tcp dport {port} accept\ntcp sport {port} accept\ntcp flags & rst == rst accept\n\
             icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\ncounter name passed\n"
        );
        self.device.nft(&format!(
            "table inet witness {{\ncounter passed {{ }}\nchain counted {{\n{counted}}}\n\
             chain sent {{\ntype filter hook output priority 100\noifname {SIM} jump counted\n}}\n\
             chain received {{\ntype filter hook input priority 100\niifname {SIM} jump counted\n}}\n}}\n"
        ))?;
        Ok(())
    }

    /// What it has counted.
    ///
    /// # Errors
    /// When it is gone.
    pub fn witnessed(&self) -> anyhow::Result<u64> {
        let listed = self
            .device
            .command("nft")
            .args(["-j", "list", "counters", "table", "inet", "witness"])
            .output()?;
        let listed: Value = serde_json::from_slice(&listed.stdout)?;
        let counters = listed.get("nftables").and_then(Value::as_array);
        counters
            .into_iter()
            .flatten()
            .find_map(|one| one.get("counter")?.get("bytes")?.as_u64())
            .context("the witness is gone")
    }

    /// A connection from the device to the far end: the device's socket and the far one.
    ///
    /// # Errors
    /// When nothing passes.
    pub fn connect(&self) -> anyhow::Result<(TcpStream, TcpStream)> {
        self.connect_over(Family::V4)
    }

    /// The same over that family.
    ///
    /// # Errors
    /// When nothing passes.
    pub fn connect_over(&self, family: Family) -> anyhow::Result<(TcpStream, TcpStream)> {
        let at = (family.far(), 0);
        let listener = self.far.within(|| Ok(TcpListener::bind(at)?))?;
        let address: SocketAddr = listener.local_addr()?;
        let near = self.device.within(|| Ok(TcpStream::connect(address)?))?;
        let (far, from) = listener.accept()?;
        anyhow::ensure!(from.ip() == family.device());
        Ok((near, far))
    }

    /// A socket for packets at each end.
    ///
    /// # Errors
    /// When there is no such address.
    pub fn sockets(&self, family: Family) -> anyhow::Result<(UdpSocket, UdpSocket)> {
        let near = self
            .device
            .within(|| Ok(UdpSocket::bind((family.device(), 0))?))?;
        let far = self
            .far
            .within(|| Ok(UdpSocket::bind((family.far(), 0))?))?;
        Ok((near, far))
    }
}

/// Relays whoever comes to a port of this process's loopback.
fn pass_on_from(listener: TcpListener, to: u16) {
    thread::spawn(move || {
        while let Ok((near, _)) = listener.accept() {
            let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else {
                continue;
            };
            let _ = near.set_nodelay(true);
            let _ = broker.set_nodelay(true);
            if let (Ok(near2), Ok(broker2)) = (near.try_clone(), broker.try_clone()) {
                thread::spawn(move || pass_on(near, broker));
                thread::spawn(move || pass_on(broker2, near2));
            }
        }
    });
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    // A broken connection ends; whoever used it notices.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
