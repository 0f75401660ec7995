//! Quotas, counters and sets of a table in the kernel, over nfnetlink: read, and set in place.
//!
//! Only what is done while traffic flows is here: a few small messages. The rules themselves are made by the `nft`
//! program (see [`rules`](super::rules)), once at the start and after somebody else flushed them. So neither a process
//! is started for each grant, nor is a second compiler of rules built into the agent.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NLMSG_ERROR, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::super::netlink::{await_answer, damaged, messages, receive, refused};

/// Numbers of `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`: kernel ABI, fixed.
const NFPROTO_INET: u8 = 1;
pub(super) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
pub(super) const NEWTABLE: u16 = 0;
pub(super) const DELTABLE: u16 = 2;
pub(super) const NEWSETELEM: u16 = 12;
pub(super) const DELSETELEM: u16 = 14;
pub(super) const NEWOBJ: u16 = 18;
const GETOBJ: u16 = 19;
/// In a message about an object; the table's name is number 1 in messages about all other things too.
pub(super) const ATTR_TABLE: u16 = 1;
const ATTR_NAME: u16 = 2;
const ATTR_TYPE: u16 = 3;
const ATTR_DATA: u16 = 4;
const TABLE_FLAGS: u16 = 2;
const OWNER: u32 = 2;
const PERSIST: u32 = 4;
/// In a message about a set's elements.
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const KEY_VALUE: u16 = 1;
const QUOTA_BYTES: u16 = 1;
const QUOTA_FLAGS: u16 = 2;
const QUOTA_CONSUMED: u16 = 4;
const COUNTER_BYTES: u16 = 1;
/// `over`: matches what goes beyond the quota.
const QUOTA_OVER: u32 = 1;
const NESTED: u16 = 0x8000;
/// The family, the version, and a number: before the attributes of each message.
pub(super) const NFGEN_OCTETS: usize = 4;

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

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

/// A change of a table.
enum Change<'a> {
    Limit {
        quota: &'a str,
        octets: u64,
    },
    Empty {
        set: &'a str,
    },
    Include {
        set: &'a str,
        index: u32,
    },
    /// Makes the table, or takes it over.
    Table {
        flags: u32,
    },
    Remove,
}

impl Change<'_> {
    const fn flags(&self) -> u16 {
        match self {
            Change::Limit { .. } | Change::Empty { .. } | Change::Remove => 0,
            Change::Include { .. } | Change::Table { .. } => NLM_F_CREATE,
        }
    }

    const fn message(&self) -> u16 {
        match self {
            Change::Limit { .. } => NEWOBJ,
            Change::Empty { .. } => DELSETELEM,
            Change::Include { .. } => NEWSETELEM,
            Change::Table { .. } => NEWTABLE,
            Change::Remove => DELTABLE,
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
        let changes = limits.iter().map(|(name, octets)| Change::Limit {
            quota: name,
            octets: *octets,
        });
        self.change(&changes.collect::<Vec<_>>())
    }

    /// Empties sets, all at once.
    pub(super) fn empty(&mut self, sets: &[&str]) -> io::Result<()> {
        let changes = sets.iter().map(|set| Change::Empty { set });
        self.change(&changes.collect::<Vec<_>>())
    }

    /// Makes this interface the only one of a set.
    pub(super) fn replace_index(&mut self, set: &str, index: u32) -> io::Result<()> {
        self.change(&[Change::Empty { set }, Change::Include { set, index }])
    }

    /// Makes the table, empty, so that it outlives whoever owns it. Says whether the kernel can do that (Linux 6.9).
    pub(super) fn make_lasting(&mut self) -> io::Result<bool> {
        match self.change(&[Change::Table { flags: PERSIST }]) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(EOPNOTSUPP | EINVAL)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes over a lasting table that nobody owns. It is free again when this is dropped.
    pub(super) fn own(&mut self) -> io::Result<()> {
        let flags = OWNER | PERSIST;
        self.change(&[Change::Table { flags }])
    }

    /// Takes the table away. Says whether there was one.
    pub(super) fn remove(&mut self) -> io::Result<bool> {
        match self.change(&[Change::Remove]) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The name of the table.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Makes changes: all of them, or none.
    fn change(&mut self, changes: &[Change<'_>]) -> io::Result<()> {
        if changes.is_empty() {
            // Nothing would be answered.
            return Ok(());
        }
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let begin = NLM_F_REQUEST;
        message(&mut bytes, BATCH_BEGIN, begin, first, SUBSYSTEM, |_| {});
        self.sequence = first;
        for change in changes {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = NLM_F_REQUEST | NLM_F_ACK | change.flags();
            let kind = kind_of(change.message());
            message(&mut bytes, kind, flags, self.sequence, 0, |body| {
                self.describe(body, change);
            });
        }
        let last = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let end = self.sequence;
        message(&mut bytes, BATCH_END, begin, end, SUBSYSTEM, |_| {});
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

    fn describe(&self, body: &mut Vec<u8>, change: &Change<'_>) {
        match change {
            Change::Limit { quota, octets } => {
                self.name(body, Kind::Quota, quota);
                nested(body, ATTR_DATA, |data| {
                    attribute(data, QUOTA_BYTES, &(*octets).min(UNLIMITED).to_be_bytes());
                    attribute(data, QUOTA_FLAGS, &QUOTA_OVER.to_be_bytes());
                });
            }
            // All of its elements, where none is named.
            Change::Empty { set } => {
                attribute(body, ATTR_TABLE, &text(&self.table));
                attribute(body, ATTR_NAME, &text(set));
            }
            Change::Table { flags } => {
                attribute(body, ATTR_TABLE, &text(&self.table));
                attribute(body, TABLE_FLAGS, &flags.to_be_bytes());
            }
            Change::Remove => attribute(body, ATTR_TABLE, &text(&self.table)),
            Change::Include { set, index } => {
                attribute(body, ATTR_TABLE, &text(&self.table));
                attribute(body, ATTR_NAME, &text(set));
                nested(body, ELEMENTS, |list| {
                    nested(list, ELEMENT, |element| {
                        nested(element, ELEMENT_KEY, |key| {
                            attribute(key, KEY_VALUE, &index.to_ne_bytes());
                        });
                    });
                });
            }
        }
    }

    fn name(&self, body: &mut Vec<u8>, kind: Kind, name: &str) {
        attribute(body, ATTR_TABLE, &text(&self.table));
        attribute(body, ATTR_NAME, &text(name));
        attribute(body, ATTR_TYPE, &kind.number().to_be_bytes());
    }
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
pub(super) fn text(name: &str) -> Vec<u8> {
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
