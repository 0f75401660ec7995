//! Child processes that are this program: the service, the embedded broker, the bare responder.

use std::io::Write as _;
use std::process::Command;

use anyhow::Context as _;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::broker::EmbeddedBroker;

pub(super) const CLOUD: &str = "cloud";
pub(super) const EDGE: &str = "edge";
pub(super) const RUMQTTD: &str = "rumqttd";
pub(super) const ECHO: &str = "echo";
pub(super) const FLOOD: &str = "flood";
/// What a broker says before its port.
pub(super) const LISTENING: &str = "listening ";

/// This program in another role, without the settings of the user's shell.
pub(super) fn itself(role: &str) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command
        .arg(role)
        .env_remove("RUST_LOG")
        .env_remove("SIMQUOTA_CLOUD_CONFIG");
    Ok(command)
}

/// Ends this process when the benchmark is gone, however it went.
pub(super) fn die_with_parent() {
    // Without it the child outlives a benchmark that was killed; there is nothing better to do.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
}

/// The embedded broker in a process of its own, so that its time and memory are its own.
pub(super) fn rumqttd() -> anyhow::Result<()> {
    die_with_parent();
    let broker = EmbeddedBroker::start()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{LISTENING}{}", broker.port_v5())?;
    out.flush()?;
    loop {
        std::thread::park();
    }
}
