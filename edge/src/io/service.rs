//! What the service manager hears of the agent: `sd_notify(3)`, one datagram for each thing said.
//!
//! The watchdog is fed by the thread that meters and by no other: an agent that meters no more is started again.
//! Where nobody listens (no `NOTIFY_SOCKET`) all of this does nothing.

use std::env;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Fed this many times within the watchdog's time: a slow disk between two rounds is no reason to be killed.
const FED_TIMES: u64 = 3;
/// A status is told at most once in so many milliseconds.
const STATUS_MS: u64 = 1_000;

/// The service manager's end, if there is one.
#[derive(Debug, Default)]
pub struct Service {
    socket: Option<UnixDatagram>,
    /// Milliseconds from one feeding of the watchdog to the next; none without a watchdog.
    feed_ms: Option<u64>,
    fed_ms: Option<u64>,
    ready: bool,
    status: Option<(u64, String)>,
}

impl Service {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say. A socket that can't be reached is told to the log
    /// and does without: metering goes before being watched.
    #[must_use]
    pub fn of_environment() -> Service {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Service::default();
        };
        let number = |key: &str| env::var(key).ok()?.parse::<u64>().ok();
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog_us = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && for_us);
        match Service::open(Path::new(&name), watchdog_us) {
            Ok(service) => service,
            Err(error) => {
                tracing::warn!(%error, "the service manager can't be told anything");
                Service::default()
            }
        }
    }

    /// Speaks to this socket; a name that begins with `@` is in the abstract namespace.
    fn open(name: &Path, watchdog_us: Option<u64>) -> std::io::Result<Service> {
        let address = match name.as_os_str().as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A manager that does not listen must not stop the meter.
        socket.set_nonblocking(true)?;
        Ok(Service {
            socket: Some(socket),
            feed_ms: watchdog_us.map(|usec| (usec / 1000 / FED_TIMES).max(1)),
            ..Service::default()
        })
    }

    fn tell(&self, line: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(line.as_bytes())
        {
            tracing::debug!(%error, line, "the service manager did not take it");
        }
    }

    /// The start may take so much longer: a long journal is being read.
    pub fn slow_start(&self, within_s: u64) {
        let usec = within_s.saturating_mul(1_000_000);
        self.tell(&format!(
            "EXTEND_TIMEOUT_USEC={usec}\nSTATUS=opening the store"
        ));
    }

    /// The gate is set and the meter was read. Told once, and again after [`Service::reloading`].
    pub fn ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            self.tell("READY=1");
        }
    }

    /// The configuration is being read again.
    pub fn reloading(&mut self) {
        self.tell("RELOADING=1");
        self.ready = false;
    }

    /// The orderly end has begun, and may take so long.
    pub fn stopping(&self, within_ms: u64) {
        let usec = within_ms.saturating_mul(1000);
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={usec}"));
    }

    /// How the agent is, in a line. Told when it changes.
    pub fn status(&mut self, now_ms: u64, line: impl FnOnce() -> String) {
        let resting = |(told_ms, _): &(u64, String)| now_ms < told_ms.saturating_add(STATUS_MS);
        if self.socket.is_none() || self.status.as_ref().is_some_and(resting) {
            return;
        }
        let line = line();
        let told = self.status.as_ref().is_some_and(|(_, told)| *told == line);
        if !told {
            self.tell(&format!("STATUS={line}"));
            self.status = Some((now_ms, line));
        }
    }

    /// Feeds the watchdog, if it is time.
    pub fn feed(&mut self, now_ms: u64) {
        if self.feed_in_ms(now_ms) == Some(0) {
            self.fed_ms = Some(now_ms);
            self.tell("WATCHDOG=1");
        }
    }

    /// In how many milliseconds the watchdog is to be fed; none without one.
    #[must_use]
    pub fn feed_in_ms(&self, now_ms: u64) -> Option<u64> {
        let next_ms = self
            .fed_ms
            .map_or(0, |fed_ms| fed_ms.saturating_add(self.feed_ms.unwrap_or(0)));
        self.feed_ms.map(|_| next_ms.saturating_sub(now_ms))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut line = [0; 1000];
        socket.set_nonblocking(true).unwrap();
        let octets = socket.recv(&mut line).ok()?;
        Some(String::from_utf8_lossy(line.get(..octets).unwrap()).into_owned())
    }

    #[test]
    fn each_thing_is_said_once_and_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("notify");
        let manager = UnixDatagram::bind(&name).unwrap();
        let mut service = Service::open(&name, Some(3_000_000)).unwrap();
        service.slow_start(60);
        service.ready();
        service.ready();
        for now_ms in [5, 6, 1_004, 1_005] {
            service.feed(now_ms);
        }
        assert_eq!(service.feed_in_ms(1_505), Some(500));
        service.status(0, || "open".to_owned());
        service.status(2_000, || "open".to_owned());
        service.status(2_000, || "shut".to_owned());
        service.status(2_500, || "open".to_owned());
        service.reloading();
        service.ready();
        service.stopping(5_000);
        let said: Vec<String> = std::iter::from_fn(|| heard(&manager)).collect();
        assert_eq!(
            said,
            [
                "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=opening the store",
                "READY=1",
                "WATCHDOG=1",
                "WATCHDOG=1",
                "STATUS=open",
                "STATUS=shut",
                "RELOADING=1",
                "READY=1",
                "STOPPING=1\nEXTEND_TIMEOUT_USEC=5000000",
            ]
        );
    }

    #[test]
    fn an_abstract_socket_is_one_too() {
        let name = format!("simquota-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let mut service = Service::open(Path::new(&format!("@{name}")), None).unwrap();
        service.ready();
        assert_eq!(heard(&manager).unwrap(), "READY=1");
        assert_eq!(service.feed_in_ms(7), None);
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        let mut service = Service::default();
        service.ready();
        service.feed(1);
        service.status(1, || unreachable!("nobody asks"));
        let missing = Service::open(Path::new("/nowhere/notify"), None);
        assert!(missing.is_err());
    }
}
