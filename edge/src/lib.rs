//! The agent on the device: meters the SIM's interface, stores usage and reports it over MQTT.

pub mod agent;
pub mod io;
pub mod shell;
