//! Two real brokers for tests: rumqttd in this process, mosquitto beside it.
//!
//! Both run on loopback, on free ports, and can be made to fail in the ways that matter: unreachable for a while
//! with their sessions kept, or back with their memory lost.

mod embedded;
mod mosquitto;

use std::net::{Ipv4Addr, TcpStream};

pub use self::embedded::{EmbeddedBroker, SHIPPED_CONFIG};
pub use self::mosquitto::Mosquitto;

/// What every test broker can do. A failure of one of these is a failure of the test's own means.
pub trait Broker: Send {
    /// `rumqttd` or `mosquitto`, for messages.
    fn name(&self) -> &'static str;

    /// The loopback port for MQTT 5 clients. It stays the same over outages and restarts.
    fn port(&self) -> u16;

    /// The loopback port for MQTT 3.1.1 clients. It stays the same over outages and restarts.
    fn port_v4(&self) -> u16;

    /// Cuts all connections and lets nobody in until [`resume`](Self::resume). Sessions, their queues and
    /// retained messages are kept.
    ///
    /// # Errors
    /// When the broker cannot be stopped.
    fn outage(&mut self) -> anyhow::Result<()>;

    /// Ends an outage. Returns when clients can connect.
    ///
    /// # Errors
    /// When the broker does not come back on its port.
    fn resume(&mut self) -> anyhow::Result<()>;

    /// Cuts all connections and comes back knowing nothing: no session, no queue, no retained message.
    /// Returns when clients can connect.
    ///
    /// # Errors
    /// When the broker does not come back on its port.
    fn restart_with_amnesia(&mut self) -> anyhow::Result<()>;
}

/// How often a start is tried again because somebody took the free port in between.
const PORT_TRIES: u32 = 5;

fn accepts(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}
