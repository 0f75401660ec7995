//! Quotas and counters of a table in the kernel, over nfnetlink: read, set in place, and watched.
//!
//! Only what is done while traffic flows is here: five small messages. The rules themselves are made by the `nft`
//! program (see [`rules`](super::rules)), once at the start and after somebody else flushed them. So neither a process
//! is started for each grant, nor is a second compiler of rules built into the agent.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{EventfdFlags, eventfd};

use super::super::netlink::{await_answer, damaged, messages, receive, refused, wait_for_either};

/// Numbers of `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`: kernel ABI, fixed.
const NFPROTO_INET: u8 = 1;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWOBJ: u16 = 18;
const GETOBJ: u16 = 19;
const DELOBJ: u16 = 20;
const GROUP: u32 = 7;
/// In a message about an object; the table's name is number 1 in messages about all other things too.
const ATTR_TABLE: u16 = 1;
const ATTR_NAME: u16 = 2;
const ATTR_TYPE: u16 = 3;
const ATTR_DATA: u16 = 4;
const QUOTA_BYTES: u16 = 1;
const QUOTA_FLAGS: u16 = 2;
const QUOTA_CONSUMED: u16 = 4;
const COUNTER_BYTES: u16 = 1;
/// `over`: matches what goes beyond the quota.
const QUOTA_OVER: u32 = 1;
const NESTED: u16 = 0x8000;
const NFGEN_OCTETS: usize = 4;
const ENOBUFS: i32 = 105;

/// The kernel keeps quotas in a signed number: more than this is no limit.
pub(super) const UNLIMITED: u64 = i64::MAX as u64;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Quota,
}

impl Kind {
    const fn number(self) -> u32 {
        match self {
            Kind::Counter => 1,
            Kind::Quota => 2,
        }
    }

    /// The attribute that says how many octets came by.
    const fn counted(self) -> u16 {
        match self {
            Kind::Counter => COUNTER_BYTES,
            Kind::Quota => QUOTA_CONSUMED,
        }
    }
}

/// Asks and sets objects of one table.
pub(super) struct Objects {
    socket: Socket,
    port: u32,
    table: String,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Objects {
    pub(super) fn open(table: &str) -> io::Result<Objects> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        // Connected to the kernel, nobody else can put an answer into this socket.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Objects {
            socket,
            port,
            table: table.to_owned(),
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    /// The port that this socket's changes are announced under.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    /// Octets that an object has counted.
    pub(super) fn counted(&mut self, kind: Kind, name: &str) -> io::Result<u64> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        message(
            &mut bytes,
            kind_of(GETOBJ),
            NLM_F_REQUEST,
            self.sequence,
            0,
            |body| {
                self.name(body, kind, name);
            },
        );
        self.socket.send(&bytes, 0)?;
        loop {
            await_answer(&self.socket)?;
            receive(&self.socket, &mut self.buffer)?;
            for message in messages(&self.buffer) {
                let message = message?;
                if message.sequence_number() != self.sequence {
                    continue;
                }
                match message.message_type() {
                    NLMSG_ERROR => refused(message.payload())?,
                    _ => return counted(message.payload(), kind),
                }
            }
        }
    }

    /// Sets the limits of quotas, all at once. What they have counted stays.
    pub(super) fn limit(&mut self, limits: &[(&str, u64)]) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        message(
            &mut bytes,
            BATCH_BEGIN,
            NLM_F_REQUEST,
            first,
            SUBSYSTEM,
            |_| {},
        );
        self.sequence = first;
        for (name, octets) in limits {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = NLM_F_REQUEST | NLM_F_ACK;
            message(
                &mut bytes,
                kind_of(NEWOBJ),
                flags,
                self.sequence,
                0,
                |body| {
                    self.name(body, Kind::Quota, name);
                    nested(body, ATTR_DATA, |data| {
                        attribute(data, QUOTA_BYTES, &(*octets).min(UNLIMITED).to_be_bytes());
                        attribute(data, QUOTA_FLAGS, &QUOTA_OVER.to_be_bytes());
                    });
                },
            );
        }
        let last = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        message(
            &mut bytes,
            BATCH_END,
            NLM_F_REQUEST,
            self.sequence,
            SUBSYSTEM,
            |_| {},
        );
        self.socket.send(&bytes, 0)?;
        loop {
            await_answer(&self.socket)?;
            receive(&self.socket, &mut self.buffer)?;
            for message in messages(&self.buffer) {
                let message = message?;
                let sequence = message.sequence_number();
                // The answers to a batch that was given up.
                if sequence.wrapping_sub(first) > last.wrapping_sub(first) {
                    continue;
                }
                if message.message_type() == NLMSG_ERROR {
                    refused(message.payload())?;
                }
                if sequence == last {
                    return Ok(());
                }
            }
        }
    }

    fn name(&self, body: &mut Vec<u8>, kind: Kind, name: &str) {
        attribute(body, ATTR_TABLE, &text(&self.table));
        attribute(body, ATTR_NAME, &text(name));
        attribute(body, ATTR_TYPE, &kind.number().to_be_bytes());
    }
}

/// What happened to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableEvent {
    /// One of its quotas is used up.
    Depleted,
    /// Somebody else removed or changed a part of it.
    Disturbed,
    /// It is not watched any more.
    Failed,
}

/// Whose changes are not news: the ports of our own sockets and of the `nft` that we started.
#[derive(Clone, Debug, Default)]
pub(super) struct Ours(Arc<Mutex<VecDeque<u32>>>);

impl Ours {
    pub(super) fn add(&self, port: u32) {
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Enough for the agent's own socket and for every nft whose events are still under way.
        if ports.len() >= 16 {
            ports.remove(1);
        }
        ports.push_back(port);
    }

    fn has(&self, port: u32) -> bool {
        let ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ports.contains(&port)
    }
}

/// Watches a table until it is dropped.
pub(super) struct TableWatch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl TableWatch {
    /// `on_event` is called on a thread of its own.
    pub(super) fn begin(
        table: &str,
        ours: Ours,
        mut on_event: impl FnMut(TableEvent) + Send + 'static,
    ) -> io::Result<TableWatch> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.add_membership(GROUP)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let table = text(table);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("gate".to_owned())
            .spawn(move || {
                if watch(&socket, &stopped, &table, &ours, &mut on_event).is_err() {
                    on_event(TableEvent::Failed);
                }
            })?;
        Ok(TableWatch {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for TableWatch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(
    socket: &Socket,
    stop: &OwnedFd,
    table: &[u8],
    ours: &Ours,
    on_event: &mut impl FnMut(TableEvent),
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        if wait_for_either(socket, stop)? {
            return Ok(());
        }
        match receive(socket, &mut buffer) {
            // Only the kernel is believed.
            Ok(0) => {}
            Ok(_) => continue,
            // Events were lost: whatever they were, looking again finds it.
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                on_event(TableEvent::Disturbed);
                continue;
            }
            Err(error) => return Err(error),
        }
        let mut found = None;
        for message in messages(&buffer) {
            let message = message?;
            if ours.has(message.port_number()) || !of_table(message.payload(), table) {
                continue;
            }
            match message.message_type() ^ (SUBSYSTEM << 8) {
                NEWOBJ => found = found.or(Some(TableEvent::Depleted)),
                DELTABLE | NEWCHAIN | DELCHAIN | NEWRULE | DELRULE | DELOBJ => {
                    found = Some(TableEvent::Disturbed);
                }
                _ => {}
            }
        }
        if let Some(event) = found {
            on_event(event);
        }
    }
}

fn of_table(payload: &[u8], table: &[u8]) -> bool {
    let mut attributes = NlasIterator::new(payload.get(NFGEN_OCTETS..).unwrap_or(&[]));
    // The family is no help: a depletion names the packet's, not the table's.
    attributes.any(|attribute| {
        attribute
            .is_ok_and(|attribute| attribute.kind() == ATTR_TABLE && attribute.value() == table)
    })
}

/// What an object has counted, out of the kernel's description of it.
fn counted(payload: &[u8], kind: Kind) -> io::Result<u64> {
    for attribute in NlasIterator::new(payload.get(NFGEN_OCTETS..).unwrap_or(&[])) {
        let attribute = attribute.map_err(damaged)?;
        if attribute.kind() != ATTR_DATA {
            continue;
        }
        for field in NlasIterator::new(attribute.value()) {
            let field = field.map_err(damaged)?;
            if field.kind() == kind.counted() {
                let octets: [u8; 8] = field.value().try_into().map_err(damaged)?;
                return Ok(u64::from_be_bytes(octets));
            }
        }
    }
    Err(damaged("an object that counted nothing"))
}

const fn kind_of(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// A name with the zero that ends it.
fn text(name: &str) -> Vec<u8> {
    let mut octets = name.as_bytes().to_vec();
    octets.push(0);
    octets
}

fn message(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    resource: u16,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let mut body = vec![if resource == 0 { NFPROTO_INET } else { 0 }, 0];
    body.extend(resource.to_be_bytes());
    fill(&mut body);
    let length = u32::try_from(body.len().saturating_add(16)).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
}

/// Values here are names and numbers: far below 64 KiB.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn nested(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(bytes, kind | NESTED, &inner);
}
