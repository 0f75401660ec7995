//! Everything that runs: broker, service, agents. It is set up here, watched, and taken down.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use simquota_shared::units::{Octets, human};
use tokio::signal::unix::{SignalKind, signal};

use super::agent::Agent;
use super::cloud::{Cloud, text};
use super::options::Options;
use super::plan::{DRY, HERO, Kind, METER, Plan};
use super::process::Follower;
use super::show::Show;
use super::sim::Sim;
use super::story::{Event, Story};
use super::traffic::lo_received;
use crate::broker::EmbeddedBroker;
use crate::netns::Lab;

const TICK: Duration = Duration::from_millis(50);
/// For everything that must come: reached only when something is broken.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// How often the user has asked to end.
#[derive(Clone, Default)]
pub(super) struct Interrupts(Arc<AtomicU32>);

impl Interrupts {
    /// Counts Ctrl-C and SIGTERM from now on.
    pub(super) fn listen() -> anyhow::Result<Interrupts> {
        let interrupts = Interrupts::default();
        let counted = interrupts.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the system gives no runtime")?;
        let (mut interrupt, mut terminate) = {
            let _context = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            )
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
                        counted.0.fetch_add(1, Ordering::Relaxed);
                    }
                });
            })?;
        Ok(interrupts)
    }

    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    fn insisted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

/// Everything that runs.
pub(super) struct Stage {
    pub(super) folder: PathBuf,
    pub(super) options: Options,
    pub(super) plan: Plan,
    pub(super) interrupts: Interrupts,
    pub(super) show: Show,
    pub(super) story: Story,
    // In this order they are dropped after a failure: agents, service, broker, namespaces.
    pub(super) agents: Vec<Agent>,
    pub(super) cloud: Cloud,
    pub(super) broker: EmbeddedBroker,
    /// The SIM behind the gate in the kernel, if there is one.
    pub(super) sim: Option<Sim>,
    /// What the kernel had counted on `lo` before its agent began.
    pub(super) lo_before: Option<u64>,
    /// Agents may end from now on.
    pub(super) closing: bool,
}

impl Stage {
    /// Starts broker and service, and makes everything known to them that they need to know: fleets, packages, SIMs,
    /// devices.
    pub(super) fn set(
        options: &Options,
        folder: &Path,
        interrupts: Interrupts,
        lab: Option<Lab>,
    ) -> anyhow::Result<Stage> {
        let mut show = Show::new(options.seconds);
        let plan = Plan::make(options, folder)?;
        show.headline("a broker and the cloud start");
        let broker = match options.port {
            Some(port) => EmbeddedBroker::start_on(port),
            None => EmbeddedBroker::start(),
        }?;
        let cloud = Cloud::start(folder, broker.port_v5())?;
        let sim = lab
            .map(|lab| Sim::reaching(lab, broker.port_v5()))
            .transpose()?;
        let mut stage = Stage {
            folder: folder.to_owned(),
            options: options.clone(),
            plan,
            interrupts,
            show,
            story: Story::default(),
            agents: Vec::new(),
            cloud,
            broker,
            sim,
            lo_before: None,
            closing: false,
        };
        let mut log = Follower::new(folder.join("cloud.log"));
        stage.must("the cloud to reach the broker", |_| {
            let connected = |line: &String| {
                line.contains("connected to the broker") && line.contains("control")
            };
            Ok(log.lines().iter().any(connected))
        })?;
        stage.furnish()?;
        Ok(stage)
    }

    /// Fleets with managers, packages in their pools, SIMs, and a key for each device.
    fn furnish(&mut self) -> anyhow::Result<()> {
        self.show
            .headline("fleets, packages, SIMs and devices are made known");
        for fleet in self.plan.fleets.clone() {
            let name = fleet.name;
            self.cloud.run(["fleet", "create", name])?;
            let pool = fleet.pool.to_string();
            let package = format!("{name}-pool");
            self.cloud.run([
                "package",
                "buy",
                "--fleet",
                name,
                "--volume",
                &pool,
                "--package",
                &package,
            ])?;
            self.cloud
                .run(["enrol", "batch", "create", name, "--fleet", name])?;
            let words = format!(
                "fleet {name} has an account and a manager; its pool holds package {package} of {}",
                human(Octets(fleet.pool))
            );
            self.tell_once("S12 S13", "platform", words);
            self.tick()?;
        }
        let sims: Vec<String> = (1..=self.plan.devices.len())
            .map(|number| {
                format!("89883030000000{number:05},9014051{number:08},CloudMobile,home,internet")
            })
            .collect();
        let path = self.folder.join("sims.csv");
        std::fs::write(&path, sims.join("\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.cloud
            .run(["sim", "import", &path.display().to_string()])?;
        self.tell_once(
            "S12",
            "platform",
            format!("{} cloud SIMs are in the pool", sims.len()),
        );
        for planned in self.plan.devices.clone() {
            let enrolled = self
                .cloud
                .run(["enrol", &planned.id, "--batch", planned.fleet])?;
            let sim = self.sim.as_ref().filter(|_| planned.kind == Kind::Modem);
            let own = SocketAddr::from((Ipv4Addr::LOCALHOST, self.broker.port_v5()));
            let broker = sim.map_or(own, Sim::broker);
            let config = planned.config(broker, self.options.speed());
            let agent = Agent::prepare(
                planned,
                &self.folder,
                &config,
                text(&enrolled, "enrolment"),
                sim.map(Sim::namespace),
            )?;
            self.agents.push(agent);
        }
        Ok(())
    }

    /// Starts the agents and waits until each has its first answer. The one that leads the story gets a package.
    pub(super) fn start_agents(&mut self) -> anyhow::Result<()> {
        let devices = self.agents.len();
        self.show.headline(&format!(
            "{devices} devices are switched on: they register and ask for quota"
        ));
        self.lo_before = lo_received();
        for agent in &mut self.agents {
            agent.start()?;
        }
        self.must(&format!("{HERO} to register"), |stage| {
            Ok(stage.agent(HERO).status.registered)
        })?;
        let volume = (self.agent(HERO).planned.want * 3).to_string();
        let package = format!("{HERO}-own");
        self.cloud.run([
            "package",
            "buy",
            "--device",
            HERO,
            "--fleet",
            "buses",
            "--volume",
            &volume,
            "--package",
            &package,
        ])?;
        let size = human(Octets(self.hero().planned.want * 3));
        let words = format!("package {package} of {size} was bought for {HERO}");
        self.tell_once("S13", "platform", words);
        self.must("every device to have its first answer", |stage| {
            Ok(stage.agents.iter().all(|agent| agent.status.is_answered()))
        })
    }

    /// Tells something that is no line of a log.
    pub(super) fn tell_once(&mut self, steps: &'static str, who: &str, words: String) {
        let who = who.to_owned();
        self.show.tell(&[Event { steps, who, words }]);
    }

    /// An agent that the plan has for certain.
    pub(super) fn agent(&mut self, id: &str) -> &mut Agent {
        let position = self.agents.iter().position(|agent| agent.planned.id == id);
        let position = position.unwrap_or_default();
        #[allow(
            clippy::indexing_slicing,
            reason = "there is never a stage without devices"
        )]
        &mut self.agents[position]
    }

    pub(super) fn hero(&mut self) -> &mut Agent {
        self.agent(HERO)
    }

    pub(super) fn meter(&mut self) -> &mut Agent {
        self.agent(METER)
    }

    /// Those whose pool runs dry.
    pub(super) fn dry(&self) -> impl Iterator<Item = &Agent> {
        self.agents
            .iter()
            .filter(|agent| agent.planned.fleet == DRY)
    }

    /// Looks at everything once: what has ended, what the agents say, what is due on the screen.
    pub(super) fn tick(&mut self) -> anyhow::Result<()> {
        if self.interrupts.insisted() {
            bail!("interrupted: everything was killed, nothing was proved");
        }
        if let Some(status) = self.cloud.service.exited()? {
            bail!(
                "the cloud ended by itself ({status}); {}",
                self.cloud.service.tail()
            );
        }
        let mut events = Vec::new();
        for agent in &mut self.agents {
            if !self.closing {
                agent.must_run()?;
            }
            agent.look();
            for line in agent.log.lines() {
                events.extend(self.story.of_line(&agent.planned, &line));
            }
            if agent.status.acked > 0 && !std::mem::replace(&mut agent.reported, true) {
                let words =
                    "reported its usage; what the ledger has acknowledged it deletes".to_owned();
                events.extend(self.story.once(&agent.planned, "S32", "reported", words));
            }
        }
        self.show.tell(&events);
        self.show.draw(&self.agents);
        Ok(())
    }

    /// Watches until something is so, or until the limit has passed: whether it came.
    pub(super) fn watch(
        &mut self,
        limit: Duration,
        mut so: impl FnMut(&mut Stage) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        let began = Instant::now();
        loop {
            self.tick()?;
            if so(self)? {
                return Ok(true);
            }
            if began.elapsed() >= limit {
                return Ok(false);
            }
            thread::sleep(TICK);
        }
    }

    /// Watches until something is so that has to come. An interrupt before the story ends the demo.
    pub(super) fn must(
        &mut self,
        what: &str,
        mut so: impl FnMut(&mut Stage) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let began = self.show.has_begun();
        let came = self.watch(LIMIT, |stage| {
            if !began && stage.interrupts.any() {
                bail!("interrupted before the story began");
            }
            so(stage)
        })?;
        if came {
            return Ok(());
        }
        bail!(
            "waited {LIMIT:?} in vain for {what}; {}",
            self.cloud.service.tail()
        )
    }

    /// Watches until a moment of the story, in thousandths of its length. `false`: the user wants the end.
    pub(super) fn until(&mut self, permille: u64) -> anyhow::Result<bool> {
        let moment = Duration::from_millis(self.options.seconds * permille);
        self.watch(Duration::MAX, |stage| {
            Ok(stage.interrupts.any() || stage.show.passed() >= moment)
        })?;
        Ok(!self.interrupts.any())
    }

    /// Sends a signal to an agent.
    pub(super) fn signal(&mut self, id: &str, signal: Signal) -> anyhow::Result<()> {
        match &mut self.agent(id).process {
            Some(process) => process.signal(signal),
            None => Ok(()),
        }
    }

    /// Ends every agent that runs, in order, and waits for it.
    pub(super) fn end_agents(&mut self) -> anyhow::Result<()> {
        for agent in &mut self.agents {
            if let Some(process) = &mut agent.process {
                process.signal(Signal::TERM)?;
            }
        }
        self.must("every agent to end", |stage| {
            let mut all = true;
            for agent in &mut stage.agents {
                all &= agent.has_ended()?;
            }
            Ok(all)
        })
    }

    /// Ends the service in order.
    pub(super) fn end_cloud(&mut self) -> anyhow::Result<()> {
        self.cloud.service.signal(Signal::TERM)?;
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.cloud.service.exited()? {
                if status.success() {
                    return Ok(());
                }
                bail!(
                    "the cloud did not end in order ({status}); {}",
                    self.cloud.service.tail()
                );
            }
            if Instant::now() >= deadline {
                bail!("the cloud does not end; {}", self.cloud.service.tail());
            }
            thread::sleep(TICK);
        }
    }
}
