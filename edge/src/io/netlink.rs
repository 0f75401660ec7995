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
const RTM_GETROUTE: u16 = 26;
const IFLA_IFNAME: u16 = 3;
const IFLA_STATS64: u16 = 23;
const MESSAGE_HEADER_OCTETS: usize = 16;
const LINK_HEADER_OCTETS: usize = 16;
const ATTRIBUTE_HEADER_OCTETS: usize = 4;
const ROUTE_HEADER_OCTETS: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
/// `struct rtnexthop`: its length, flags, hops, interface.
const NEXT_HOP_OCTETS: usize = 8;
const RT_TABLE_LOCAL: u8 = 255;
const RTN_UNICAST: u8 = 1;
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
        match self.ask(RTM_GETLINK, &named(name), NLM_F_REQUEST, decode) {
            Ok(links) => Ok(links.into_iter().next()),
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The link of that index, or `None` if there is none in this network namespace.
    pub(super) fn link_at(&mut self, index: u32) -> io::Result<Option<Link>> {
        // An index of 0 asks for nothing.
        if index == 0 {
            return Ok(None);
        }
        match self.ask(RTM_GETLINK, &indexed(index), NLM_F_REQUEST, decode) {
            Ok(links) => Ok(links.into_iter().next()),
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of all links, in the kernel's order.
    pub(super) fn names(&mut self) -> io::Result<Vec<String>> {
        Ok(self.links()?.into_iter().map(|link| link.name).collect())
    }

    /// All links, in the kernel's order.
    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let empty = [0; LINK_HEADER_OCTETS];
        self.ask(RTM_GETLINK, &empty, NLM_F_REQUEST | NLM_F_DUMP, decode)
    }

    /// The interfaces that a route to somewhere leaves by, one entry for each route.
    pub(super) fn routed(&mut self) -> io::Result<Vec<u32>> {
        let empty = [0; ROUTE_HEADER_OCTETS];
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let found = self.ask(RTM_GETROUTE, &empty, flags, leaves_by)?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Asks with a message of that kind and body, and decodes each answer: its kind is always two below.
    fn ask<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        flags: u16,
        decode: impl Fn(&[u8]) -> io::Result<Option<T>>,
    ) -> io::Result<Vec<T>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = question(kind, body, flags, self.sequence);
        self.socket.send(&bytes, 0)?;

        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut found = Vec::new();
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
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => refused(message.payload())?,
                    answer if answer == kind.wrapping_sub(2) => {
                        found.extend(decode(message.payload())?)
                    }
                    _ => {}
                }
                if !dump {
                    return Ok(found);
                }
            }
        }
    }
}

/// A message header and the body. Written by hand, because the library's writer brings every attribute that there is:
/// 100 KiB of a device's program.
fn question(kind: u16, body: &[u8], flags: u16, sequence: u32) -> Vec<u8> {
    let octets = MESSAGE_HEADER_OCTETS + body.len();
    let mut bytes = Vec::with_capacity(octets);
    bytes.extend(u32::try_from(octets).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // To the kernel.
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// The body of `RTM_GETLINK` for one link: an empty link header, and the name.
fn named(name: &str) -> Vec<u8> {
    let mut body = vec![0; LINK_HEADER_OCTETS];
    // With the final zero. A name is NAME_OCTETS_MAX long at most.
    let octets = ATTRIBUTE_HEADER_OCTETS + name.len() + 1;
    body.extend(u16::try_from(octets).unwrap_or(u16::MAX).to_ne_bytes());
    body.extend(IFLA_IFNAME.to_ne_bytes());
    body.extend(name.as_bytes());
    body.push(0);
    body.resize(LINK_HEADER_OCTETS + octets.next_multiple_of(4), 0);
    body
}

/// The body of `RTM_GETLINK` for one link: a link header with its index.
fn indexed(index: u32) -> Vec<u8> {
    // Family, padding, and the type of the device come first.
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.resize(LINK_HEADER_OCTETS, 0);
    body
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

/// The interfaces that a route leaves by; none if it leads nowhere that a broker could be.
///
/// Of a route only the header, the destination and the interfaces are looked at.
fn leaves_by(payload: &[u8]) -> io::Result<Option<Vec<u32>>> {
    let Some((header, attributes)) = payload.split_at_checked(ROUTE_HEADER_OCTETS) else {
        return Err(damaged("a route without its header"));
    };
    let (table, kind) = (header.get(4), header.get(7));
    if table == Some(&RT_TABLE_LOCAL) || kind != Some(&RTN_UNICAST) {
        return Ok(None);
    }
    let index = |octets: &[u8]| octets.first_chunk().copied().map(u32::from_ne_bytes);
    let mut found = Vec::new();
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(damaged)?;
        match attribute.kind() {
            // Every interface has fe80::/10 as soon as it is up, wherever it leads.
            RTA_DST if matches!(attribute.value(), [0xfe, second, ..] if attribute.value().len() == 16 && second & 0xc0 == 0x80) =>
            {
                return Ok(None);
            }
            RTA_OIF => found.extend(index(attribute.value())),
            RTA_MULTIPATH => {
                let mut rest = attribute.value();
                while let Some(hop) = rest.get(..NEXT_HOP_OCTETS) {
                    found.extend(hop.get(4..).and_then(index));
                    let octets = hop.first_chunk().copied().map(u16::from_ne_bytes);
                    let octets = usize::from(octets.unwrap_or(0)).max(NEXT_HOP_OCTETS);
                    rest = rest.get(octets.saturating_add(3) & !3..).unwrap_or(&[]);
                }
            }
            _ => {}
        }
    }
    Ok(Some(found))
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
