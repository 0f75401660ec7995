//! Questions to the kernel about links, over rtnetlink.
//!
//! Of an answer only the header, the name and the 64-bit statistics are decoded. The rest of a link
//! message differs between kernels and drivers, and an attribute that nobody here needs must not be
//! able to stop the meter.

use std::io;
use std::os::fd::AsFd;

use netlink_packet_core::{
    ErrorBuffer, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkFlags, LinkHeader, Stats64};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Message and attribute numbers of `linux/rtnetlink.h` and `linux/if_link.h`: kernel ABI, fixed.
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_STATS64: u16 = 23;
const MESSAGE_HEADER_OCTETS: usize = 16;
const LINK_HEADER_OCTETS: usize = 16;
const ATTRIBUTE_HEADER_OCTETS: usize = 4;
/// `IFNAMSIZ` less the final zero: a longer name can't exist.
pub(super) const NAME_OCTETS_MAX: usize = 15;
/// Room for the largest datagram that the kernel makes for links.
const DATAGRAM_OCTETS: usize = 64 * 1024;
/// The kernel answers at once; this only keeps a lost answer from hanging the meter.
const ANSWER_WITHIN_S: i64 = 5;
const ENODEV: i32 = 19;

/// A link's counters since it was created, as the driver counts them (with link-layer headers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) rx_octets: u64,
    pub(super) tx_octets: u64,
    pub(super) rx_packets: u64,
    pub(super) tx_packets: u64,
}

/// What a link message says about one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Administratively up and able to carry packets.
    pub(super) running: bool,
    pub(super) counters: Option<Counters>,
}

/// A socket that asks one question at a time.
pub(super) struct Inquiry {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Inquiry {
    pub(super) fn open() -> io::Result<Inquiry> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Connected to the kernel, nobody else can put an answer into this socket.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Inquiry {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM_OCTETS),
        })
    }

    /// The link of that name, or `None` if there is no such link in this network namespace.
    pub(super) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        if name.is_empty() || name.len() > NAME_OCTETS_MAX {
            return Ok(None);
        }
        match self.ask(Some(name), NLM_F_REQUEST) {
            Ok(links) => Ok(links.into_iter().next()),
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of all links, in the kernel's order.
    pub(super) fn names(&mut self) -> io::Result<Vec<String>> {
        let links = self.ask(None, NLM_F_REQUEST | NLM_F_DUMP)?;
        Ok(links.into_iter().map(|link| link.name).collect())
    }

    fn ask(&mut self, name: Option<&str>, flags: u16) -> io::Result<Vec<Link>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = question(name, flags, self.sequence);
        self.socket.send(&bytes, 0)?;

        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut links = Vec::new();
        loop {
            await_answer(&self.socket)?;
            receive(&self.socket, &mut self.buffer)?;
            for message in messages(&self.buffer) {
                let message = message?;
                // The answer to a question that was given up.
                if message.sequence_number() != self.sequence {
                    continue;
                }
                match message.message_type() {
                    NLMSG_DONE => return Ok(links),
                    NLMSG_ERROR => refused(message.payload())?,
                    RTM_NEWLINK => links.extend(decode(message.payload())?),
                    _ => {}
                }
                if !dump {
                    return Ok(links);
                }
            }
        }
    }
}

/// `RTM_GETLINK`: a message header, an empty link header, and the name if one link is meant. Written by hand, because
/// the library's writer brings every attribute that there is: 100 KiB of a device's program.
fn question(name: Option<&str>, flags: u16, sequence: u32) -> Vec<u8> {
    let mut attribute = Vec::new();
    if let Some(name) = name {
        // With the final zero. A name is NAME_OCTETS_MAX long at most.
        let octets = ATTRIBUTE_HEADER_OCTETS + name.len() + 1;
        attribute.extend(u16::try_from(octets).unwrap_or(u16::MAX).to_ne_bytes());
        attribute.extend(IFLA_IFNAME.to_ne_bytes());
        attribute.extend(name.as_bytes());
        attribute.push(0);
        attribute.resize(octets.next_multiple_of(4), 0);
    }
    let octets = MESSAGE_HEADER_OCTETS + LINK_HEADER_OCTETS + attribute.len();
    let mut bytes = Vec::with_capacity(octets);
    bytes.extend(u32::try_from(octets).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(RTM_GETLINK.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // To the kernel.
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([0; LINK_HEADER_OCTETS]);
    bytes.extend(attribute);
    bytes
}

/// Waits until the kernel's answer can be read.
pub(super) fn await_answer(socket: &Socket) -> io::Result<()> {
    let within = Timespec {
        tv_sec: ANSWER_WITHIN_S,
        tv_nsec: 0,
    };
    let mut ready = [PollFd::new(socket, PollFlags::IN)];
    loop {
        match poll(&mut ready, Some(&within)) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the kernel did not answer",
                ));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until one of the two can be read; says whether the second can.
pub(super) fn wait_for_either(first: &impl AsFd, second: &impl AsFd) -> io::Result<bool> {
    let mut ready = [
        PollFd::new(first, PollFlags::IN),
        PollFd::new(second, PollFlags::IN),
    ];
    loop {
        match poll(&mut ready, None) {
            Ok(_) => {
                let [_, second] = &ready;
                return Ok(!second.revents().is_empty());
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads one datagram into `buffer`; returns who sent it (0 is the kernel).
pub(super) fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<u32> {
    buffer.clear();
    buffer.reserve(DATAGRAM_OCTETS);
    let (_, from) = socket.recv_from(buffer, 0)?;
    Ok(from.port_number())
}

/// The messages of a datagram, one after the other; ends after the first damaged one.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = io::Result<NetlinkBuffer<&[u8]>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = NetlinkBuffer::new_checked(rest).map_err(damaged);
        rest = match &message {
            // Messages begin at multiples of four octets.
            Ok(message) => {
                let octets = usize::try_from(message.length()).unwrap_or(usize::MAX);
                rest.get(octets.saturating_add(3) & !3..).unwrap_or(&[])
            }
            Err(_) => &[],
        };
        Some(message)
    })
}

/// Reads the payload of `RTM_NEWLINK` or `RTM_DELLINK`; `None` if it is not about a link as such.
pub(super) fn decode(payload: &[u8]) -> io::Result<Option<Link>> {
    let header = LinkHeader::parse(payload).map_err(damaged)?;
    // Bridge ports are announced with the same messages under AF_BRIDGE: such a "removal" only means
    // that the link left its bridge.
    if header.interface_family != AddressFamily::Unspec {
        return Ok(None);
    }
    let mut name = String::new();
    let mut counters = None;
    for attribute in NlasIterator::new(payload.get(LINK_HEADER_OCTETS..).unwrap_or(&[])) {
        let attribute = attribute.map_err(damaged)?;
        match attribute.kind() {
            IFLA_IFNAME => {
                let text = attribute.value();
                let text = text.split(|octet| *octet == 0).next().unwrap_or(text);
                name = String::from_utf8_lossy(text).into_owned();
            }
            IFLA_STATS64 => {
                let stats = Stats64::parse(attribute.value()).map_err(damaged)?;
                counters = Some(Counters {
                    rx_octets: stats.rx_bytes,
                    tx_octets: stats.tx_bytes,
                    rx_packets: stats.rx_packets,
                    tx_packets: stats.tx_packets,
                });
            }
            _ => {}
        }
    }
    Ok(Some(Link {
        index: header.index,
        name,
        running: header.flags.contains(LinkFlags::Up | LinkFlags::Running),
        counters,
    }))
}

/// What an `NLMSG_ERROR` says; code 0 is a yes.
pub(super) fn refused(payload: &[u8]) -> io::Result<()> {
    let error = ErrorBuffer::new_checked(payload).map_err(damaged)?;
    match error.code() {
        None => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.get().wrapping_neg())),
    }
}

pub(super) fn damaged(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("netlink message: {error}"),
    )
}
