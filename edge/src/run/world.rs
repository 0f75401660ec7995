//! The real [`World`]: store, meter, gate and broker behind the agent's effects.

use std::collections::VecDeque;

use simquota_shared::units::Octets;
use tokio::runtime::Handle;

use super::channels::Channels;
use super::line::Line;
use super::metering::Metering;
use super::queue::{Event, Orders};
use super::status::{Snapshot, StatusFile};
use super::{RunError, notice};
use crate::agent::{Agent, Commit, Durable, GateState, Input, Load, Notice, Now, Outgoing, Row};
use crate::config::{AgentDown, ClockKind, GateSettings, Settings};
use crate::io::channel::ChannelWatch;
use crate::io::clock;
use crate::io::gate::command::CommandGate;
use crate::io::gate::nft::NftGate;
use crate::io::gate::{Gate, GateKind};
use crate::io::hook::SimHook;
use crate::io::mirror::Mirror;
use crate::io::mqtt::OptionsError;
use crate::io::post::Post;
use crate::io::recover::Opened;
use crate::io::store::{Store, StoreError};
use crate::shell::World;

/// 2024-01-01. A clock before that was never set.
const CLOCK_SET_MS: u64 = 1_704_067_200_000;

/// Everything of a device but its agent.
pub(super) struct Machine {
    pub(super) settings: Settings,
    pub(super) orders: Orders,
    /// Events that came while nobody could take them.
    pub(super) kept: VecDeque<Event>,
    /// The last input was a tick.
    pub(super) ticked: bool,
    pub(super) metering: Metering,
    pub(super) gate: Gate,
    pub(super) line: Option<Line>,
    pub(super) post: Post,
    pub(super) refused: u64,
    pub(super) file: StatusFile,
    pub(super) store_error: Option<String>,
    pub(super) hook: SimHook,
    pub(super) hook_error: Option<String>,
    pub(super) channels: Channels,
    /// When the last commit began, as long as the gate was not raised after it; then how long that took.
    commit_ms: Option<u64>,
    synced_ms: Option<u64>,
    channel_watch: Option<ChannelWatch>,
    runtime: Handle,
    lines: u64,
    store: Option<Store>,
    mirror: Mirror,
    mirror_failed: bool,
}

impl Machine {
    pub(super) fn new(
        settings: &Settings,
        orders: Orders,
        runtime: &Handle,
        opened: Opened,
    ) -> Result<(Machine, Option<Durable>), RunError> {
        let Opened {
            mut store,
            mirror,
            state,
        } = opened;
        store.retain(settings.retention);
        let position = state.as_ref().and_then(|state| state.position.as_ref());
        let before = position.map(|position| &position.identity);
        let mut metering = Metering::open(settings, before, orders.bell())?;
        let gate = open_gate(settings, &orders, &mut metering)?;
        let mut post = Post::new(settings.enrolment.clone());
        if let Some(state) = &state {
            post.rotate_to(state.key_generation);
        }
        let iccid = state.as_ref().and_then(|state| state.iccid.clone());
        let mut machine = Machine {
            settings: settings.clone(),
            hook: SimHook::new(settings.sim_hook.clone(), iccid),
            hook_error: None,
            channels: Channels::default(),
            commit_ms: None,
            synced_ms: None,
            channel_watch: None,
            orders,
            kept: VecDeque::new(),
            ticked: false,
            metering,
            gate,
            line: None,
            post,
            refused: 0,
            file: StatusFile::new(settings.status_file.clone()),
            store_error: None,
            runtime: runtime.clone(),
            lines: 0,
            store: Some(store),
            mirror,
            mirror_failed: false,
        };
        machine.watch_channels();
        Ok((machine, state))
    }

    /// A new line to the broker, whose will is this agent's. The one before is cut.
    pub(super) fn connect(&mut self, agent: &Agent) -> Result<(), OptionsError> {
        self.line = None;
        if !self.channels.may_connect() {
            return Ok(());
        }
        self.lines = self.lines.saturating_add(1);
        self.line = Some(Line::open(
            self.lines,
            &self.settings,
            self.channels.taken(),
            &self.post,
            agent,
            &self.orders,
            &self.runtime,
        )?);
        Ok(())
    }

    /// The same while the agent runs: what it hears of the one before.
    pub(super) fn connect_again(&mut self, agent: &Agent) -> Option<Input> {
        let connected = self.line.as_ref().is_some_and(Line::connected);
        if let Err(error) = self.connect(agent) {
            tracing::error!(%error, "no connection can be made: correct [broker] and send SIGHUP");
        }
        connected.then_some(Input::Disconnected)
    }

    /// Begins to watch the channels of the configuration, if it names any.
    pub(super) fn watch_channels(&mut self) {
        let order = self.settings.channels.clone();
        let names: Vec<String> = order
            .channels
            .iter()
            .map(|channel| channel.interface.clone())
            .collect();
        self.channel_watch = None;
        self.channels = Channels::new(order);
        if names.is_empty() {
            return;
        }
        match ChannelWatch::begin(names, self.orders.channels()) {
            Ok(watch) => self.channel_watch = Some(watch),
            Err(error) => self.channels_failed(&error),
        }
    }

    /// Without the kernel's word the connection is bound to nothing: it goes wherever the system's routes lead.
    pub(super) fn channels_failed(&mut self, error: &std::io::Error) {
        tracing::error!(%error, "the channels can't be watched; the system's routes decide");
        self.channel_watch = None;
        self.channels = Channels::default();
    }

    /// Chooses the channel anew.
    pub(super) fn choose_channel(&mut self, agent: &Agent) -> Vec<Input> {
        let choice = self.channels.choose(clock::monotonic_ms());
        let mut inputs = Vec::new();
        if choice.connect {
            let channel = self.channels.taken().map(|taken| taken.id.as_str());
            tracing::info!(channel, "another channel carries the connection");
            inputs.extend(self.connect_again(agent));
        }
        inputs.extend(choice.input);
        inputs
    }

    /// How long it took from a commit to the raised gate, once for each.
    pub(super) const fn take_synced(&mut self) -> Option<Input> {
        match self.synced_ms.take() {
            Some(took_ms) => Some(Input::Synced { took_ms }),
            None => None,
        }
    }

    /// Reads the meter, and what the gate has counted just before it.
    pub(super) fn read_meter(&mut self) -> Input {
        let apart = self.gate.before_reading();
        let input = self.metering.read(clock::monotonic_ms(), apart);
        if let Some(index) = self.metering.live() {
            self.gate.after_reading(index);
        }
        input
    }

    /// After an orderly end nobody raises the gate any more: should traffic pass then, the gate goes.
    pub(super) fn leave_gate(&mut self) {
        if let GateSettings::Nft {
            down: AgentDown::Allow,
            ..
        } = &self.settings.gate
            && let Err(error) = self.gate.take_away()
        {
            tracing::warn!(%error, "the gate's table was not taken away");
        }
    }

    pub(super) fn set_gate(&mut self, gate: &GateState, used: Octets) {
        let counted = self.metering.counted();
        self.gate.set(gate, used, counted, self.metering.source());
    }

    /// The store can't be trusted any more.
    pub(super) fn drop_store(&mut self, error: &StoreError) {
        self.store = None;
        self.store_error = Some(error.to_string());
    }

    pub(super) fn take_store(&mut self, store: Store, mirror: Mirror) {
        self.store = Some(store);
        self.mirror = mirror;
        self.store_error = None;
    }

    pub(super) fn snapshot(&self, agent: &Agent) -> Snapshot {
        let broker = &self.settings.broker;
        let line = self.line.as_ref();
        let mut view = agent.status_view();
        // An agent without a store is thrown away before it could say so itself.
        view.gate_open &= self.store_error.is_none();
        Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            time_ms: clock::wall_ms(),
            key_id: self.post.kid().to_string(),
            broker: format!("{}:{}", broker.host, broker.port),
            broker_error: match self.channels.may_connect() {
                true => line.and_then(Line::error).map(str::to_owned),
                false => Some("no channel can be used".to_owned()),
            },
            source: self.metering.name().to_owned(),
            source_error: self.metering.error().map(str::to_owned),
            source_finished: self.metering.finished(),
            gate: self.gate.kind(),
            passed_gate: self.gate.passed(),
            gate_remade: self.gate.remade(),
            gate_error: self.gate.error().map(str::to_owned),
            refused_messages: self.refused,
            store_error: self.store_error.clone(),
            sim_hook_error: self.hook_error.clone(),
            agent: view,
        }
    }

    fn store(&mut self) -> Result<&mut Store, StoreError> {
        let path = &self.settings.data;
        self.store
            .as_mut()
            .ok_or_else(|| StoreError::Poisoned { path: path.clone() })
    }
}

fn open_gate(
    settings: &Settings,
    orders: &Orders,
    metering: &mut Metering,
) -> Result<Gate, RunError> {
    let life = metering.first_life();
    let source = metering.source();
    Ok(match &settings.gate {
        GateSettings::Observe => Gate::shut(GateKind::Observe, source),
        GateSettings::Trace => Gate::shut(GateKind::Trace, source),
        GateSettings::Nft { place, .. } => {
            let gate = NftGate::open(place.clone(), life, orders.gate())?;
            Gate::in_kernel(gate, source)
        }
        GateSettings::Command(program) => {
            Gate::by_command(CommandGate::open(program.clone())?, source)
        }
    })
}

impl World for Machine {
    type Stop = StoreError;

    fn now(&mut self) -> Now {
        let wall_ms = match self.settings.clock {
            ClockKind::None => None,
            ClockKind::System => Some(clock::wall_ms()).filter(|now_ms| *now_ms >= CLOCK_SET_MS),
        };
        Now {
            mono_ms: clock::monotonic_ms(),
            wall_ms,
        }
    }

    fn lower(&mut self, gate: &GateState, used: Octets) -> Result<(), StoreError> {
        self.set_gate(gate, used);
        Ok(())
    }

    fn read(&mut self) -> Result<Input, StoreError> {
        Ok(self.read_meter())
    }

    fn commit(&mut self, commit: Commit) -> Result<(), StoreError> {
        let begun_ms = clock::monotonic_ms();
        self.store()?.commit(&commit)?;
        // Durable before anything is sealed with it: an agent that forgot a rotation would be refused.
        self.post.rotate_to(commit.state.key_generation);
        // After the store: what the mirror shows was durable there.
        let mirrored = self.mirror.write(&commit.state);
        let failed = mirrored.is_err();
        if let Err(error) = mirrored
            && !self.mirror_failed
        {
            tracing::warn!(%error, "epoch and used total were not mirrored; a store that is lost now loses more");
        }
        self.mirror_failed = failed;
        self.commit_ms = Some(begun_ms);
        Ok(())
    }

    fn raise(&mut self, gate: &GateState, used: Octets) -> Result<(), StoreError> {
        self.set_gate(gate, used);
        if let Some(begun_ms) = self.commit_ms.take() {
            let took_ms = clock::monotonic_ms().saturating_sub(begun_ms);
            // What is left of a millisecond counts as one.
            self.synced_ms = Some(took_ms.saturating_add(1));
        }
        Ok(())
    }

    fn publish(&mut self, message: Outgoing) -> Result<(), StoreError> {
        if let Some(line) = &self.line {
            line.publish(&self.post, &message);
        }
        Ok(())
    }

    fn load(&mut self, load: Load) -> Result<Vec<Row>, StoreError> {
        self.store()?.load(load)
    }

    fn notice(&mut self, notice: Notice) {
        if let Notice::SimBound(sim) = &notice {
            self.hook.assigned(sim, self.orders.hook());
        }
        notice::tell(&notice);
    }
}
