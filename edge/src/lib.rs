//! The agent on the device: meters the SIM's interface, stores usage and reports it over MQTT.
//!
//! | module | what |
//! |---|---|
//! | [`agent`] | what the device decides: pure, no clock, no randomness, no I/O |
//! | [`shell`] | the order in which the agent's wishes are carried out: the crash-safety contract |
//! | [`io`] | everything that touches the world |
//! | [`run`] | the running agent: one thread that owns all of it |
//! | [`config`] | `edge.toml` |
//! | [`cli`] | the command line |

pub mod agent;
pub mod cli;
pub mod config;
pub mod io;
pub mod run;
pub mod shell;
