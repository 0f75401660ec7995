//! The device behind a gate in the kernel: its SIM is a veth pair between two network namespaces, over which it reaches
//! the broker and downloads from the far end. What passed is what the far end's own counter says.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use simquota_shared::units::{Octets, human};

use super::cloud::number;
use super::plan::{DRY_PERMILLE, MODEM, MODEM_POOL, MODEM_TOP_UP, MODEMS};
use super::stage::Stage;
use crate::netns::{FAR, FAR_IP, Lab};

/// The far end sends so much at a time.
const BLOCK: usize = 8 * 1024;
/// An end of a grant that is smaller stays unused.
const PACKET_OCTETS: u64 = 1_500;
const NOTHING_LEFT: u16 = 4012;
/// Nothing heard for so long: the flow was cut, and another is begun.
const PATIENCE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(200);
/// Nothing passes for so long: then nothing is under way.
const QUIET: Duration = Duration::from_millis(300);

/// Makes the namespaces, before anything else is begun.
///
/// # Errors
/// Without root, the programs, or a kernel that can; the text says what to do.
pub(super) fn lab() -> anyhow::Result<Lab> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "--gate nft makes network namespaces and a table in the kernel, which takes root: run it by `sudo`, or leave --gate out"
        );
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("nsenter", "util-linux"),
    ] {
        let found = std::process::Command::new(program).arg("-V").output();
        if found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            bail!("--gate nft needs the program {program}: install {package}");
        }
    }
    Lab::make(true).context(
        "--gate nft: the kernel must have network namespaces, veth and nftables, and let this user make them",
    )
}

/// The SIM, and who uses it.
pub(super) struct Sim {
    lab: Lab,
    broker_port: u16,
    download: Option<Download>,
    /// When the grant was used up.
    stopped: Option<Reached>,
    /// What had passed, by the far end, when all was metered at the end of the download.
    passed: Option<u64>,
}

/// What was seen of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimSeen {
    /// When the grant was used up; none in a story that was cut short.
    pub(super) stopped: Option<Reached>,
    /// Octets that had passed before its agent was ended, and after it, by the far end's own counter.
    pub(super) passed: (u64, u64),
}

/// How far everything had come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    /// Octets on the link, by the far end's own counter.
    pub(super) passed: u64,
    /// Octets metered by the agent.
    pub(super) metered: u64,
    /// Octets charged by the ledger.
    pub(super) charged: u64,
}

impl Reached {
    /// Octets that the network delivered beyond the grant.
    pub(super) const fn overrun(self) -> u64 {
        self.metered.saturating_sub(MODEM_POOL)
    }
}

impl Sim {
    pub(super) fn reaching(lab: Lab, broker_port: u16) -> anyhow::Result<Sim> {
        let broker_port = lab.relay(broker_port)?;
        Ok(Sim {
            lab,
            broker_port,
            download: None,
            stopped: None,
            passed: None,
        })
    }

    /// The broker, as the device reaches it.
    pub(super) fn broker(&self) -> SocketAddr {
        SocketAddr::from((FAR_IP, self.broker_port))
    }

    /// Where the device's namespace is.
    pub(super) fn namespace(&self) -> String {
        self.lab.device.path()
    }

    /// What the far end's own counter says, up + down.
    pub(super) fn counted(&self) -> anyhow::Result<u64> {
        let (up, down) = self.lab.far.octets(FAR)?;
        Ok(up + down)
    }
}

/// Begins the download, paced so that the grant lasts a part of the story.
pub(super) fn begin(stage: &mut Stage) -> anyhow::Result<()> {
    let millis = (stage.options.seconds * DRY_PERMILLE).max(1);
    let Some(sim) = &mut stage.sim else {
        return Ok(());
    };
    sim.download = Some(Download::begin(&sim.lab, MODEM_POOL * 1000 / millis)?);
    let words = format!(
        "downloads over a link of its own (network namespaces, a veth pair); nftables lets {} pass",
        human(Octets(MODEM_POOL))
    );
    stage.tell_once("S31", MODEM, words);
    Ok(())
}

/// The kernel has stopped the download at the grant, and nothing more passes.
pub(super) fn stops(stage: &mut Stage) -> anyhow::Result<()> {
    if stage.sim.is_none() {
        return Ok(());
    }
    stage.show.headline(&format!(
        "the kernel stops the download of {MODEM} at its grant"
    ));
    let mut quiet = Quiet::default();
    let mut stopped = None;
    stage.must(&format!("the download of {MODEM} to stop"), |stage| {
        if stage.interrupts.any() {
            return Ok(true);
        }
        let Some(sim) = &stage.sim else {
            return Ok(true);
        };
        let passed = sim.counted()?;
        let quiet = quiet.since(passed);
        let status = &stage.agent(MODEM).status;
        let metered = status.used == passed && !status.request_open;
        let last = status.final_unit || status.answer_code == Some(NOTHING_LEFT);
        let is_over = quiet && metered && last && status.remaining < PACKET_OCTETS;
        // Of one moment: the agent goes on asking.
        stopped = is_over.then_some((passed, status.used));
        Ok(is_over)
    })?;
    let Some((passed, metered)) = stopped else {
        return Ok(());
    };
    let charged = charged(stage)?;
    let Some(sim) = &mut stage.sim else {
        return Ok(());
    };
    sim.stopped = Some(Reached {
        passed,
        metered,
        charged,
    });
    let resets = sim.download.as_ref().map_or(0, Download::resets);
    let words = format!(
        "the far end's own counter says {passed} octets for a grant of {MODEM_POOL}: {} over it are metered (on their way at the cut, refused, or the agent's own); the kernel has reset {resets} connections",
        passed.saturating_sub(MODEM_POOL),
    );
    stage.tell_once("S43", "kernel", words);
    Ok(())
}

/// Someone buys for the fleet, and the download goes on.
pub(super) fn is_released(stage: &mut Stage) -> anyhow::Result<()> {
    let Some(sim) = &stage.sim else {
        return Ok(());
    };
    let before = sim.counted()?;
    stage.story.again(MODEM);
    stage.cloud.run([
        "package",
        "buy",
        "--fleet",
        MODEMS,
        "--volume",
        &MODEM_TOP_UP.to_string(),
        "--package",
        "modems-top-up",
    ])?;
    let size = human(Octets(MODEM_TOP_UP));
    let words =
        format!("package modems-top-up of {size} was bought for the pool of fleet {MODEMS}");
    stage.tell_once("S13", "platform", words);
    let began = Instant::now();
    // More than an agent says, less than a moment's download.
    let further = before + 200_000;
    stage.must(&format!("the download of {MODEM} to go on"), |stage| {
        let counted = stage.sim.as_ref().map(Sim::counted).transpose()?;
        Ok(stage.interrupts.any() || counted.is_none_or(|counted| counted >= further))
    })?;
    let words = format!(
        "the gate opened in place, and the download goes on: {} more after {:.1} s",
        human(Octets(further - before)),
        began.elapsed().as_secs_f64()
    );
    stage.tell_once("S31", "kernel", words);
    Ok(())
}

/// Ends the download and waits until all of it is metered: the agent ends after it.
pub(super) fn end(stage: &mut Stage) -> anyhow::Result<()> {
    let Some(sim) = &mut stage.sim else {
        return Ok(());
    };
    sim.download = None;
    let mut quiet = Quiet::default();
    stage.must(&format!("{MODEM} to meter everything"), |stage| {
        let Some(sim) = &stage.sim else {
            return Ok(true);
        };
        let passed = sim.counted()?;
        let quiet = quiet.since(passed);
        let status = &stage.agent(MODEM).status;
        Ok(quiet && status.used == passed && !status.request_open)
    })?;
    if let Some(sim) = &mut stage.sim {
        sim.passed = Some(sim.counted()?);
    }
    Ok(())
}

/// What was seen of it, now that its agent has ended.
pub(super) fn seen(stage: &Stage) -> anyhow::Result<Option<SimSeen>> {
    let Some(sim) = &stage.sim else {
        return Ok(None);
    };
    let after = sim.counted()?;
    Ok(Some(SimSeen {
        stopped: sim.stopped,
        passed: (sim.passed.unwrap_or(after), after),
    }))
}

fn charged(stage: &Stage) -> anyhow::Result<u64> {
    let shown = stage
        .cloud
        .run(["device", "show", MODEM, "--fleet", MODEMS])?;
    Ok(number(&shown, "charged"))
}

/// Whether a counter stands still.
#[derive(Default)]
struct Quiet(Option<(Instant, u64)>);

impl Quiet {
    fn since(&mut self, counted: u64) -> bool {
        let (since, last) = *self.0.get_or_insert_with(|| (Instant::now(), counted));
        if last != counted {
            self.0 = Some((Instant::now(), counted));
            return false;
        }
        since.elapsed() >= QUIET
    }
}

/// A download from the far end that begins anew whenever it was cut, until it is dropped.
struct Download {
    stop: Arc<AtomicBool>,
    resets: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Download {
    fn begin(lab: &Lab, octets_per_s: u64) -> anyhow::Result<Download> {
        let listener = lab.far.within(|| Ok(TcpListener::bind((FAR_IP, 0))?))?;
        listener.set_nonblocking(true)?;
        let to = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let resets = Arc::new(AtomicU64::new(0));
        let (served, cut) = (Arc::clone(&stop), Arc::clone(&resets));
        let server = thread::spawn(move || {
            while !served.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((flow, _)) => {
                        let reset = serve(flow, octets_per_s, &served);
                        cut.fetch_add(u64::from(reset), Ordering::Relaxed);
                    }
                    Err(_) => thread::sleep(AGAIN / 4),
                }
            }
        });
        let wanted = Arc::clone(&stop);
        // A thread lives in the namespace of the thread that makes it.
        let client = lab.device.within(move || {
            Ok(thread::spawn(move || {
                while !wanted.load(Ordering::Relaxed) {
                    if let Ok(flow) = TcpStream::connect_timeout(&to, PATIENCE) {
                        receive(flow, &wanted);
                    }
                    thread::sleep(AGAIN);
                }
            }))
        })?;
        Ok(Download {
            stop,
            resets,
            threads: vec![server, client],
        })
    }

    fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has told so itself.
            let _ = thread.join();
        }
    }
}

/// Sends at a pace until the flow breaks; whether it was reset.
fn serve(mut flow: TcpStream, octets_per_s: u64, stop: &AtomicBool) -> bool {
    // A flow that the gate holds up must not hold up the end of the demo.
    if flow.set_nonblocking(false).is_err() || flow.set_write_timeout(Some(PATIENCE)).is_err() {
        return false;
    }
    // Ten times a second, at a slow pace.
    let block = (octets_per_s / 10).clamp(200, BLOCK as u64);
    let pause = Duration::from_micros(block * 1_000_000 / octets_per_s.max(1));
    let some = vec![0x55; usize::try_from(block).unwrap_or(BLOCK)];
    while !stop.load(Ordering::Relaxed) {
        match flow.write_all(&some) {
            Ok(()) => thread::sleep(pause),
            Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
    false
}

/// Reads until the flow ends, or nothing comes any more.
fn receive(mut flow: TcpStream, stop: &AtomicBool) {
    if flow.set_read_timeout(Some(PATIENCE)).is_err() {
        return;
    }
    let mut some = [0; BLOCK];
    while !stop.load(Ordering::Relaxed) {
        match flow.read(&mut some) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
