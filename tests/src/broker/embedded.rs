//! rumqttd in this process, with the configuration that is shipped.
//!
//! `rumqttd::Broker` cannot be stopped, so this builds its parts: a router, which holds all state, and a listener
//! for each protocol version. Listeners that go and come back to the same router are an outage of the network; a
//! new router is a broker that has lost its memory.
//!
//! rumqttd logs at level ERROR what is normal: a client that went away, and the connection by which
//! [`EmbeddedBroker::start`] sees that it is up. Log filters in tests and the demo want `rumqttd=off` beside it.
//! A router that panics leaves a dead broker in a living process (four ways are known for a client to get there).

use std::error::Error as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context as _, anyhow, bail};
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::{Config, LinkType, Router, Server, ServerSettings};
use tokio::sync::oneshot;

use super::{Broker, PORT_TRIES, accepts};
use crate::port::free_port;
use crate::process::{LIMIT, await_fact};

/// `broker.toml` of the top directory.
pub const SHIPPED_CONFIG: &str = include_str!("../../../broker.toml");

/// rumqttd on a thread of its own. Dropping it closes its ports and connections.
pub struct EmbeddedBroker {
    config: Config,
    v4: ServerSettings,
    v5: ServerSettings,
    servers: Servers,
    listening: Option<Listening>,
}

/// Makes listeners for one router. A closure, because rumqttd does not export the type of the router's channel.
type Servers = Box<dyn Fn(&ServerSettings, &ServerSettings) -> (Server<V4>, Server<V5>) + Send>;

struct Listening {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl EmbeddedBroker {
    /// Starts it on two free loopback ports. Returns when clients can connect.
    ///
    /// # Errors
    /// When `broker.toml` is not a configuration of rumqttd, or no port is free.
    pub fn start() -> anyhow::Result<Self> {
        let mut broker = Self::made()?;
        for _ in 0..PORT_TRIES {
            broker.v4.listen.set_port(free_port()?);
            broker.v5.listen.set_port(free_port()?);
            if broker.listen()?.is_up() {
                return Ok(broker);
            }
        }
        bail!("the ports for rumqttd were taken {PORT_TRIES} times; try again");
    }

    /// Starts it on this loopback port for MQTT 5, and the next one for MQTT 3.1.1.
    ///
    /// # Errors
    /// When one of the two is in use, and which.
    pub fn start_on(port: u16) -> anyhow::Result<Self> {
        let next = port
            .checked_add(1)
            .context("the port for MQTT 3.1.1 is the next one: name one below 65535")?;
        for port in [port, next] {
            if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                bail!(
                    "the broker can't listen on port {port} ({error}): name another port, or end what listens there"
                );
            }
        }
        let mut broker = Self::made()?;
        broker.v5.listen.set_port(port);
        broker.v4.listen.set_port(next);
        if !broker.listen()?.is_up() {
            bail!(
                "the broker can't listen on ports {port} and {next}: somebody has just taken one; try again"
            );
        }
        Ok(broker)
    }

    fn made() -> anyhow::Result<Self> {
        let config: Config = toml::from_str(SHIPPED_CONFIG).context("broker.toml is not valid")?;
        let v4 = listener(config.v4.as_ref(), "v4")?;
        let v5 = listener(config.v5.as_ref(), "v5")?;
        let mut broker = Self {
            servers: new_router(&config),
            config,
            v4,
            v5,
            listening: None,
        };
        for server in [&mut broker.v4, &mut broker.v5] {
            server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        }
        Ok(broker)
    }

    /// The port for MQTT 5 clients.
    pub fn port_v5(&self) -> u16 {
        self.v5.listen.port()
    }

    /// The port for MQTT 3.1.1 clients.
    pub fn port_v4(&self) -> u16 {
        self.v4.listen.port()
    }

    /// Closes ports and connections. Sessions and retained messages stay in the router. No last will is sent.
    pub fn stop(&mut self) {
        if let Some(Listening { stop, thread }) = self.listening.take() {
            // Both fail only if the thread has ended by itself.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }

    /// Begins to listen and waits until it is known whether that worked.
    fn listen(&mut self) -> anyhow::Result<Start> {
        let (stop, stopped) = oneshot::channel();
        let (bound, is_bound) = mpsc::channel();
        let (v4, v5) = (self.servers)(&self.v4, &self.v5);
        let thread = std::thread::Builder::new()
            .name("rumqttd".to_owned())
            .spawn(move || serve(v4, v5, &bound, stopped))?;
        // A connection alone would prove nothing: while this process forks a child, a listener that was closed
        // lives on in the child, takes connections, and makes the new one fail.
        if is_bound.recv_timeout(LIMIT).is_ok() {
            let ports = [self.port_v4(), self.port_v5()];
            await_fact(LIMIT, "rumqttd to listen", || {
                ports.into_iter().all(accepts).then_some(())
            })?;
            self.listening = Some(Listening { stop, thread });
            return Ok(Start::Up);
        }
        match thread.join() {
            Ok(Err(error)) if error.kind() == io::ErrorKind::AddrInUse => Ok(Start::PortTaken),
            Ok(Err(error)) => Err(error).context("rumqttd cannot listen"),
            Ok(Ok(())) => bail!("rumqttd ended by itself"),
            Err(_) => bail!("rumqttd panicked while it started"),
        }
    }
}

impl Broker for EmbeddedBroker {
    fn name(&self) -> &'static str {
        "rumqttd"
    }

    fn port(&self) -> u16 {
        self.port_v5()
    }

    fn port_v4(&self) -> u16 {
        Self::port_v4(self)
    }

    fn outage(&mut self) -> anyhow::Result<()> {
        self.stop();
        Ok(())
    }

    fn resume(&mut self) -> anyhow::Result<()> {
        if self.listening.is_some() {
            return Ok(());
        }
        let what = format!("ports {} and {} again", self.port_v4(), self.port_v5());
        await_fact(LIMIT, &what, || match self.listen() {
            Ok(Start::Up) => Some(Ok(())),
            Ok(Start::PortTaken) => None,
            Err(error) => Some(Err(error)),
        })?
    }

    /// The old router's thread and its memory stay until the process ends: rumqttd has no way to stop it.
    fn restart_with_amnesia(&mut self) -> anyhow::Result<()> {
        self.stop();
        self.servers = new_router(&self.config);
        self.resume()
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Up,
    PortTaken,
}

impl Start {
    fn is_up(self) -> bool {
        self == Self::Up
    }
}

fn new_router(config: &Config) -> Servers {
    let router = Router::new(config.id, config.router.clone()).spawn();
    Box::new(move |v4, v5| {
        (
            Server::new(v4.clone(), router.clone(), V4),
            Server::new(v5.clone(), router.clone(), V5),
        )
    })
}

fn listener(
    servers: Option<&std::collections::HashMap<String, ServerSettings>>,
    version: &str,
) -> anyhow::Result<ServerSettings> {
    servers
        .and_then(|servers| servers.get("plain"))
        .cloned()
        .ok_or_else(|| anyhow!("broker.toml has no [{version}.plain]"))
}

/// Serves until told to stop, or until a listener fails. Leaving the runtime closes every socket.
fn serve(
    mut v4: Server<V4>,
    mut v5: Server<V5>,
    bound: &mpsc::Sender<()>,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Both bind when they are first polled, so before the last branch is. They return only when they failed.
        let ended = tokio::select! {
            biased;
            ended = v4.start(LinkType::Remote) => ended,
            ended = v5.start(LinkType::Remote) => ended,
            () = async { let _ = bound.send(()); let _ = stopped.await; } => Ok(()),
        };
        // rumqttd does not export its error type; the cause inside tells a taken port from other failures.
        ended.map_err(|error| {
            let cause = error.source().and_then(|e| e.downcast_ref::<io::Error>());
            let kind = cause.map_or(io::ErrorKind::Other, io::Error::kind);
            io::Error::new(kind, error.to_string())
        })
    })
}
