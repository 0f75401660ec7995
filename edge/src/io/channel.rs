//! Watches the networks that can carry messages to the broker: links and routes, by the kernel's own word.
//!
//! A channel is usable when its interface can carry packets and a route leaves by it. Whether the broker answers there
//! is the connection's business.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{EventfdFlags, eventfd};
use simquota_shared::ids::ChannelId;

use super::netlink::{Inquiry, receive, wait_for_either};

/// Groups of `linux/rtnetlink.h`: links, and the routes of both families. An address brings or takes a route.
const GROUPS: [u32; 3] = [1, 7, 11];
/// A change comes as a handful of messages: they are answered by one look.
const BURST: Duration = Duration::from_millis(20);

/// A network that can carry messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its name towards the cloud: `sim`, or the interface's.
    pub id: ChannelId,
    /// Its interface.
    pub interface: String,
    /// The cloud SIM: metered and charged.
    pub sim: bool,
}

/// The channels as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The most wanted first; none binds the connection to nothing.
    pub channels: Vec<Channel>,
    /// The SIM is left for another channel when its link was down for so long.
    pub leave_ms: u64,
}

impl Channel {
    /// The metered interface.
    #[must_use]
    pub fn sim(interface: &str) -> Channel {
        Channel {
            interface: interface.to_owned(),
            sim: true,
            ..Channel::other("sim")
        }
    }

    /// Another one.
    #[must_use]
    pub fn other(interface: &str) -> Channel {
        let plain = |c: char| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => c,
            _ => '-',
        };
        let id: String = interface.chars().map(plain).collect();
        Channel {
            // An interface has 1 to 15 characters, and all of them are plain now: the other name is never used.
            id: id.parse().unwrap_or_else(|_| fallback()),
            interface: interface.to_owned(),
            sim: false,
        }
    }
}

fn fallback() -> ChannelId {
    #[allow(clippy::expect_used, reason = "a constant that a test parses")]
    "other".parse().expect("a plain word")
}

/// One channel at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// No link, or none that carries packets, or no route.
    None,
    /// It can be used. The interface's index: another one is another interface, which knows no connection of the one
    /// before.
    Usable(u32),
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct ChannelWatch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl ChannelWatch {
    /// Begins to watch these interfaces, which need not exist yet. `on_change` is called on a thread of its own with
    /// what can be used, in the same order: first with the present, then at each change.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn begin(
        interfaces: Vec<String>,
        mut on_change: impl FnMut(io::Result<Vec<Reach>>) + Send + 'static,
    ) -> io::Result<ChannelWatch> {
        // Subscribed before the first question, so that no change falls between the two.
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        let mut watch = Watch {
            interfaces,
            inquiry: Inquiry::open()?,
            socket,
            stop: Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?),
        };
        let stop = Arc::clone(&watch.stop);
        let thread = std::thread::Builder::new()
            .name("channels".to_owned())
            .spawn(move || {
                if let Err(error) = watch.run(&mut on_change) {
                    on_change(Err(error));
                }
            })?;
        Ok(ChannelWatch {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for ChannelWatch {
    /// Ends the thread and waits for it.
    fn drop(&mut self) {
        // Adding 1 to an eventfd fails only when its counter is full, and then it is readable as well.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of the consumer's callback was reported when it happened.
            let _ = thread.join();
        }
    }
}

struct Watch {
    interfaces: Vec<String>,
    inquiry: Inquiry,
    socket: Socket,
    stop: Arc<OwnedFd>,
}

impl Watch {
    fn run(&mut self, on_change: &mut impl FnMut(io::Result<Vec<Reach>>)) -> io::Result<()> {
        let mut known = None;
        loop {
            let now = self.look()?;
            if known.as_ref() != Some(&now) {
                known = Some(now.clone());
                on_change(Ok(now));
            }
            if wait_for_either(&self.socket, &self.stop)? {
                return Ok(());
            }
            std::thread::sleep(BURST);
            self.drain()?;
        }
    }

    /// What the messages say does not matter, nor whether some were lost: the answer is a look at everything.
    fn drain(&mut self) -> io::Result<()> {
        const ENOBUFS: i32 = 105;
        let mut buffer = Vec::new();
        loop {
            match receive(&self.socket, &mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn look(&mut self) -> io::Result<Vec<Reach>> {
        let links = self.inquiry.links()?;
        let routed = self.inquiry.routed()?;
        let reach = |name: &String| {
            let link = links.iter().find(|link| link.name == *name);
            match link.filter(|link| link.running && routed.contains(&link.index)) {
                Some(link) => Reach::Usable(link.index),
                None => Reach::None,
            }
        };
        Ok(self.interfaces.iter().map(reach).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_present_comes_first_and_a_name_that_is_no_link_is_none() {
        let (sender, seen) = channel();
        let names = vec!["lo".to_owned(), "nowhere0".to_owned()];
        let watch = ChannelWatch::begin(names, move |now| sender.send(now.unwrap()).unwrap());
        // What leaves by `lo` is in the table of local routes: it leads to no broker elsewhere.
        assert_eq!(seen.recv().unwrap(), [Reach::None, Reach::None]);
        drop(watch);
        assert!(seen.recv().is_err());
    }

    #[test]
    fn an_interface_is_named_plainly() {
        assert_eq!(Channel::other("Wlan0.7").id.as_str(), "wlan0-7");
        assert_eq!(Channel::sim("wwan0").id.as_str(), "sim");
        assert_eq!(fallback().as_str(), "other");
    }
}
