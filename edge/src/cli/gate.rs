//! `simquota-edge gate`: the table in the kernel, without the agent.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{ConfigFile, print};
use crate::config::AgentDown;
use crate::io::gate::nft;

/// Shut or take away the gate in the kernel while the agent does not run.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  simquota-edge gate shut        before the network comes up, from a unit ordered before network-pre.target
  simquota-edge gate open        traffic passes unmetered, until the agent is back
  simquota-edge gate agent-down  what gate.agent_down says, for the service's ExecStopPost")]
pub(super) struct Gate {
    #[command(flatten)]
    config: ConfigFile,
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Action {
    /// Nothing passes.
    Shut,
    /// Everything passes.
    Open,
    /// `open` if gate.agent_down is "allow", else nothing.
    AgentDown,
}

impl Gate {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (place, down) = self.config.read()?.gate_place(&self.config.config)?;
        match (self.action, down) {
            (Action::Shut, _) => {
                nft::shut(&place)?;
                print(&format!("{}: nothing passes", place.interface))?;
            }
            (Action::Open, _) | (Action::AgentDown, AgentDown::Allow) => {
                nft::remove(&place)?;
                print(&format!("{}: everything passes", place.interface))?;
            }
            (Action::AgentDown, AgentDown::Block) => {
                print(&format!("{}: the gate stays as it is", place.interface))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
