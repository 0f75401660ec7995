//! A configuration that was read again while the agent runs: what can change does, and what can't is named.

use super::world::Machine;
use crate::agent::{Agent, Input, Tuning};
use crate::config::Settings;

/// What is fixed for as long as the process lives, by the keys of the configuration.
const FIXED: &str = "restart the agent for it";

impl Machine {
    /// Takes over what can change: the broker and the channels to it, how much to ask for, how often to read and to
    /// sync, the SIM's hook, the end. Anything else waits for the next start, and the log says so.
    pub(super) fn reload(&mut self, new: Settings, agent: &Agent) -> Vec<Input> {
        let waits = waits(&self.settings, &new);
        for key in &waits {
            tracing::warn!(key, "a change of this key waits: {FIXED}");
        }
        let Settings {
            enrolment: _,
            broker,
            tls,
            channels,
            data: _,
            retention: _,
            status_file: _,
            log: _,
            clock: _,
            source: _,
            gate: _,
            agent: config,
            sim_hook,
            exit_at_end,
            close_meter,
        } = new;
        let own = &mut self.settings;
        let tuning = Tuning {
            want: config.want,
            sync_octets: config.sync_octets,
            poll_ms: config.poll_ms,
            shutdown_ms: config.shutdown_ms,
        };
        own.agent.want = tuning.want;
        own.agent.sync_octets = tuning.sync_octets;
        own.agent.poll_ms = tuning.poll_ms;
        own.agent.shutdown_ms = tuning.shutdown_ms;
        own.exit_at_end = exit_at_end;
        own.close_meter = close_meter;
        own.sim_hook.clone_from(&sim_hook);
        self.hook.program = sim_hook;
        // The gate's table names the broker's port: behind a table of another one it could not be reached.
        let another_line = (&own.broker, &own.tls) != (&broker, &tls) && !waits.contains(&"gate");
        let mut inputs = vec![Input::Tuned(tuning)];
        if another_line {
            own.broker = broker;
            own.tls = tls;
        }
        if own.channels != channels {
            own.channels = channels;
            self.watch_channels();
            inputs.extend(self.connect_again(agent));
        } else if another_line {
            inputs.extend(self.connect_again(agent));
        }
        tracing::info!("configuration was read again");
        inputs
    }
}

/// The keys whose change needs another start.
fn waits(own: &Settings, new: &Settings) -> Vec<&'static str> {
    let info = |settings: &Settings| {
        let agent = &settings.agent;
        (
            agent.serial.clone(),
            agent.model.clone(),
            agent.firmware.clone(),
            agent.iccid.clone(),
            agent.zone.clone(),
        )
    };
    let differ = [
        ("key_file", own.enrolment != new.enrolment),
        ("data", own.data != new.data),
        (
            "store.keep and store.keep_days",
            own.retention != new.retention,
        ),
        ("status_file", own.status_file != new.status_file),
        ("clock", own.clock != new.clock),
        ("source", own.source != new.source),
        ("gate", own.gate != new.gate),
        ("device_info", info(own) != info(new)),
    ];
    let differ = differ.into_iter().filter(|(_, differs)| *differs);
    differ.map(|(key, _)| key).collect()
}
