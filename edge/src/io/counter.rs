//! Where metered octets come from.
//!
//! A [`Source`] is a counter that only grows, with an [`Identity`] that tells one life of it from the
//! next. There are two: [`LinkSource`], a Linux interface, and
//! [`TraceSource`](super::trace::TraceSource), a recording that stands for a modem.
//!
//! **An octet is an IP octet.** Linux counts a frame with its link-layer header, so `l2_overhead`
//! octets are taken off for each packet: 14 on Ethernet and on modems that pose as one, 0 on `lo` (its
//! counter leaves the header out) and on raw-IP modems.

use std::io;
use std::os::linux::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use super::netlink::{Counters, Inquiry, Link};
use super::trace::TraceError;

/// One life of a counter. Two readings may be subtracted only if their identities are equal; any other
/// pair means that the counter began again from zero in between (reboot, interface created anew).
///
/// Source: house rule, "a counter that restarts is detected, never guessed".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The kernel's boot id, or `trace:` and the random id of the trace's state file.
    pub boot_id: String,
    /// Inode of the network namespace: interface indexes repeat between namespaces.
    pub namespace: u64,
    /// The kernel's interface index, never used twice in one boot and namespace. 0 for a trace.
    pub index: u32,
    /// The interface's name, or `trace`.
    pub name: String,
}

/// What a counter shows: totals since its life began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Whose life the totals belong to.
    pub identity: Identity,
    /// IP octets sent by the device.
    pub up: u64,
    /// IP octets received by the device.
    pub down: u64,
    /// Packets sent; 0 where the source does not know them (a trace).
    pub packets_up: u64,
    /// Packets received; 0 where the source does not know them (a trace).
    pub packets_down: u64,
}

/// Why no reading could be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The interface does not exist in the agent's network namespace.
    #[error("no interface `{name}`: use one of {}", existing.join(", "))]
    NoInterface {
        /// The name asked for.
        name: String,
        /// The names that exist.
        existing: Vec<String>,
    },
    /// The kernel sent no statistics for the interface.
    #[error("interface `{name}` has no 64-bit counters: meter another interface")]
    NoCounters {
        /// The interface.
        name: String,
    },
    /// Taking the link-layer headers off would make the counter negative.
    #[error(
        "interface `{name}` counted {octets} octets in {packets} packets, less than {l2_overhead} octets of header each: set l2_overhead to 0 if it is a raw-IP interface"
    )]
    Overhead {
        /// The interface.
        name: String,
        /// Its octets in one direction.
        octets: u64,
        /// Its packets in that direction.
        packets: u64,
        /// The configured header size.
        l2_overhead: u64,
    },
    /// The kernel could not be asked.
    #[error(
        "cannot ask the kernel for interface `{name}` ({source}): check that netlink sockets are allowed"
    )]
    Netlink {
        /// The interface.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// Boot id or network namespace could not be read.
    #[error("cannot read {path} ({source}): check that /proc is mounted")]
    Proc {
        /// The file.
        path: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// The source was closed before its first reading.
    #[error("the meter was closed before its first reading: open it again")]
    Closed,
    /// The trace or its state file.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

/// A counter of octets.
pub trait Source: Send {
    /// Reads the totals at `now_ms` (monotonic milliseconds, see
    /// [`clock::monotonic_ms`](super::clock::monotonic_ms)). A trace moves by this time; an interface
    /// ignores it.
    ///
    /// # Errors
    /// When the counter can't be read now. Nothing is lost by that: the next reading includes it.
    fn read(&mut self, now_ms: u64) -> Result<Reading, SourceError>;

    /// Nothing may be delivered beyond this position of the counter (up + down), `None` for no limit.
    ///
    /// Only a source that also makes the traffic can obey: a trace waits. On an interface this does
    /// nothing, there the gate stops traffic.
    fn limit(&mut self, position: Option<u64>);

    /// Whether octets wait at the limit, as of the last reading: what the drop counter of a gate is elsewhere.
    fn blocked(&self) -> bool {
        false
    }

    /// Whether no more octets will ever come: closed, or a trace that is not repeated and is all delivered.
    fn finished(&self) -> bool;

    /// Ends metering: each later reading repeats the last one.
    fn close(&mut self);
}

/// Which of an interface's directions count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Sent and received.
    #[default]
    Both,
    /// Received only: `up` stays 0. On `lo` each packet is sent and received, and would count twice.
    Rx,
    /// Sent only: `down` stays 0.
    Tx,
}

/// Which interface to meter, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkOptions {
    /// The interface's name.
    pub interface: String,
    /// The directions that count.
    pub direction: Direction,
    /// Octets of link-layer header in each packet, taken off.
    pub l2_overhead: u64,
}

/// The boot and network namespace of the thread that asks.
#[derive(Debug, Clone)]
pub(super) struct Place {
    boot_id: String,
    namespace: u64,
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
// Of the thread, not of the process: it is the thread's namespace that its sockets belong to.
const NAMESPACE: &str = "/proc/thread-self/ns/net";

impl Place {
    pub(super) fn here() -> Result<Place, SourceError> {
        let boot_id = std::fs::read_to_string(BOOT_ID).map_err(|source| SourceError::Proc {
            path: BOOT_ID,
            source,
        })?;
        let namespace = std::fs::metadata(NAMESPACE).map_err(|source| SourceError::Proc {
            path: NAMESPACE,
            source,
        })?;
        Ok(Place {
            boot_id: boot_id.trim().to_owned(),
            namespace: namespace.st_ino(),
        })
    }

    /// Turns a link's counters into a reading of IP octets.
    pub(super) fn reading(
        &self,
        options: &LinkOptions,
        link: &Link,
    ) -> Result<Reading, SourceError> {
        let Some(counters) = link.counters else {
            return Err(SourceError::NoCounters {
                name: options.interface.clone(),
            });
        };
        let Counters {
            rx_octets,
            tx_octets,
            rx_packets,
            tx_packets,
        } = counters;
        let counted =
            |octets, packets| ip_octets(options, octets, packets).map(|octets| (octets, packets));
        let sent = || counted(tx_octets, tx_packets);
        let received = || counted(rx_octets, rx_packets);
        let ((up, packets_up), (down, packets_down)) = match options.direction {
            Direction::Both => (sent()?, received()?),
            Direction::Rx => ((0, 0), received()?),
            Direction::Tx => (sent()?, (0, 0)),
        };
        Ok(Reading {
            identity: Identity {
                boot_id: self.boot_id.clone(),
                namespace: self.namespace,
                index: link.index,
                name: options.interface.clone(),
            },
            up,
            down,
            packets_up,
            packets_down,
        })
    }
}

fn ip_octets(options: &LinkOptions, octets: u64, packets: u64) -> Result<u64, SourceError> {
    packets
        .checked_mul(options.l2_overhead)
        .and_then(|headers| octets.checked_sub(headers))
        .ok_or_else(|| SourceError::Overhead {
            name: options.interface.clone(),
            octets,
            packets,
            l2_overhead: options.l2_overhead,
        })
}

/// The 64-bit counters of one Linux interface, read with one netlink question.
///
/// It is the interface of the configured name. One that was read stays the same under another name: a counter goes on
/// when its interface is renamed, and so does the traffic. When another interface takes the name, that one is meant from
/// then on.
pub struct LinkSource {
    options: LinkOptions,
    place: Place,
    inquiry: Inquiry,
    /// The index of the interface that was read last.
    life: Option<u32>,
    last: Option<Reading>,
    closed: bool,
}

impl LinkSource {
    /// Opens the way to the kernel. The interface need not exist yet: a modem may come later, and until
    /// then [`Source::read`] says [`SourceError::NoInterface`].
    ///
    /// # Errors
    /// When /proc or netlink sockets are not available.
    pub fn open(options: LinkOptions) -> Result<LinkSource, SourceError> {
        let place = Place::here()?;
        let inquiry = Inquiry::open().map_err(|source| SourceError::Netlink {
            name: options.interface.clone(),
            source,
        })?;
        Ok(LinkSource {
            options,
            place,
            inquiry,
            life: None,
            last: None,
            closed: false,
        })
    }

    /// Goes on with the life that an earlier process metered, also if it has another name by now. Says with which.
    pub fn follow(&mut self, identity: &Identity) -> Option<u32> {
        let here = identity.boot_id == self.place.boot_id
            && identity.namespace == self.place.namespace
            && identity.name == self.options.interface;
        self.life = here.then_some(identity.index);
        self.life
    }

    /// The interface of the name, or else the one that was read last. One that lost its name to another is read for the
    /// last time.
    fn find(&mut self) -> io::Result<Option<Link>> {
        let named = self.inquiry.link(&self.options.interface)?;
        let index = named.as_ref().map(|link| link.index);
        let before = match self.life {
            Some(life) if index != Some(life) => self.inquiry.link_at(life)?,
            Some(_) | None => None,
        };
        if index.is_some() {
            self.life = index;
        }
        Ok(before.or(named))
    }

    fn ask(&mut self) -> Result<Reading, SourceError> {
        let found = self.find();
        let name = &self.options.interface;
        let failed = |source| SourceError::Netlink {
            name: name.clone(),
            source,
        };
        match found.map_err(failed)? {
            Some(link) => self.place.reading(&self.options, &link),
            None => Err(SourceError::NoInterface {
                name: name.clone(),
                existing: self.inquiry.names().map_err(failed)?,
            }),
        }
    }
}

impl Source for LinkSource {
    fn read(&mut self, _now_ms: u64) -> Result<Reading, SourceError> {
        if self.closed {
            return self.last.clone().ok_or(SourceError::Closed);
        }
        let reading = self.ask()?;
        self.last = Some(reading.clone());
        Ok(reading)
    }

    fn limit(&mut self, _position: Option<u64>) {}

    fn finished(&self) -> bool {
        self.closed
    }

    fn close(&mut self) {
        self.closed = true;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::net::UdpSocket;

    use super::*;

    fn options(interface: &str, direction: Direction, l2_overhead: u64) -> LinkOptions {
        LinkOptions {
            interface: interface.to_owned(),
            direction,
            l2_overhead,
        }
    }

    fn sysfs(interface: &str, counter: &str) -> u64 {
        let path = format!("/sys/class/net/{interface}/statistics/{counter}");
        std::fs::read_to_string(path)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    #[test]
    fn reads_of_lo_lie_between_two_reads_of_sysfs() {
        let mut source = LinkSource::open(options("lo", Direction::Both, 0)).unwrap();
        let counters = ["tx_bytes", "rx_bytes", "tx_packets", "rx_packets"];
        for _ in 0..20 {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket
                .send_to(&[0; 100], socket.local_addr().unwrap())
                .unwrap();
            let before = counters.map(|counter| sysfs("lo", counter));
            let reading = source.read(0).unwrap();
            let after = counters.map(|counter| sysfs("lo", counter));
            let read = [
                reading.up,
                reading.down,
                reading.packets_up,
                reading.packets_down,
            ];
            for ((low, value), high) in before.into_iter().zip(read).zip(after) {
                assert!(low <= value && value <= high, "{low} {value} {high}");
            }
        }
    }

    #[test]
    fn a_direction_counts_alone() {
        let mut rx = LinkSource::open(options("lo", Direction::Rx, 0)).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = rx.read(0).unwrap();
        socket
            .send_to(&[0; 1000], socket.local_addr().unwrap())
            .unwrap();
        let after = rx.read(0).unwrap();
        // 1000 octets of payload, 8 of UDP, 20 of IPv4: `lo` counts no link-layer header.
        assert!(after.down - before.down >= 1028);
        assert_eq!((after.up, after.packets_up), (0, 0));
        let mut tx = LinkSource::open(options("lo", Direction::Tx, 0)).unwrap();
        let sent = tx.read(0).unwrap();
        assert_eq!((sent.down, sent.packets_down), (0, 0));
        assert!(sent.up > 0);
    }

    #[test]
    fn a_missing_interface_is_named_beside_those_that_exist() {
        for name in ["sqtnone0", "a-name-longer-than-the-kernel-takes", ""] {
            let mut source = LinkSource::open(options(name, Direction::Both, 0)).unwrap();
            let error = source.read(0).unwrap_err();
            let SourceError::NoInterface { existing, .. } = &error else {
                panic!("{error}");
            };
            assert!(existing.contains(&"lo".to_owned()), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn the_identity_names_boot_namespace_and_index() {
        let mut source = LinkSource::open(options("lo", Direction::Both, 0)).unwrap();
        let identity = source.read(0).unwrap().identity;
        assert_eq!(identity.boot_id.len(), 36);
        assert!(identity.namespace > 0);
        assert_eq!(identity.index, 1, "lo is the first link of each namespace");
        assert_eq!(identity.name, "lo");
        assert_eq!(identity, source.read(0).unwrap().identity);
    }

    #[test]
    fn headers_come_off_each_packet_and_never_wrap() {
        let options = options("x", Direction::Both, 14);
        assert_eq!(ip_octets(&options, 1_500_014, 1001).unwrap(), 1_486_000);
        assert!(ip_octets(&options, 13, 1).is_err());
        let error = ip_octets(&options, u64::MAX, u64::MAX).unwrap_err();
        assert!(error.to_string().contains("l2_overhead"), "{error}");
    }

    #[test]
    fn a_closed_source_repeats_its_last_reading() {
        let mut source = LinkSource::open(options("lo", Direction::Rx, 0)).unwrap();
        let last = source.read(0).unwrap();
        assert!(!source.finished());
        source.close();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .send_to(&[0; 100], socket.local_addr().unwrap())
            .unwrap();
        assert_eq!(source.read(0).unwrap(), last);
        assert!(source.finished());
    }
}
