//! Watches a table in the kernel: what is used up, and what somebody else did to it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use netlink_packet_core::NlasIterator;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::event::{EventfdFlags, eventfd};

use super::super::netlink::{messages, receive, wait_for_either};
use super::kernel::{
    ATTR_TABLE, DELSETELEM, DELTABLE, NEWOBJ, NEWSETELEM, NEWTABLE, NFGEN_OCTETS, SUBSYSTEM, text,
};

/// Numbers of `linux/netfilter/nf_tables.h` and `linux/netfilter/nfnetlink.h`: kernel ABI, fixed.
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const DELSET: u16 = 11;
const DELOBJ: u16 = 20;
const GROUP: u32 = 7;
const ENOBUFS: i32 = 105;

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
        // Enough for every nft whose events are still under way.
        if ports.len() >= 16 {
            ports.remove(1);
        }
        ports.push_back(port);
    }

    /// The port of the socket that changes limits, from now on: it is never forgotten.
    pub(super) fn lead(&self, port: u32) {
        self.add(port);
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = ports.len().saturating_sub(1);
        ports.swap(0, newest);
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
        tables: &[String],
        ours: Ours,
        mut on_event: impl FnMut(TableEvent) + Send + 'static,
    ) -> io::Result<TableWatch> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.add_membership(GROUP)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let tables: Vec<Vec<u8>> = tables.iter().map(|table| text(table)).collect();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("gate".to_owned())
            .spawn(move || {
                if watch(&socket, &stopped, &tables, &ours, &mut on_event).is_err() {
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
    tables: &[Vec<u8>],
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
            if ours.has(message.port_number()) || !of_table(message.payload(), tables) {
                continue;
            }
            match message.message_type() ^ (SUBSYSTEM << 8) {
                // The kernel's own word; from somebody else it is a limit that we did not set.
                NEWOBJ if message.port_number() == 0 => {
                    found = found.or(Some(TableEvent::Depleted));
                }
                NEWTABLE | DELTABLE | NEWCHAIN | DELCHAIN | NEWRULE | DELRULE | DELSET
                | NEWSETELEM | DELSETELEM | NEWOBJ | DELOBJ => {
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

fn of_table(payload: &[u8], tables: &[Vec<u8>]) -> bool {
    let mut attributes = NlasIterator::new(payload.get(NFGEN_OCTETS..).unwrap_or(&[]));
    // The family is no help: a depletion names the packet's, not the table's.
    attributes.any(|attribute| {
        attribute.is_ok_and(|attribute| {
            let ours = || tables.iter().any(|table| attribute.value() == table);
            attribute.kind() == ATTR_TABLE && ours()
        })
    })
}
