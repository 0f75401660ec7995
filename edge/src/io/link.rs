//! Watches one interface: up, down, removed. A new name changes nothing, as for the
//! [counter](super::counter::LinkSource).
//!
//! A removal carries the interface's **final** counters (`RTM_DELLINK` has them), so the last octets
//! before a network switch need no race with a poll. Memory is bounded by the kernel's socket buffer:
//! when the consumer is too slow for it, events are lost, and [`LinkEvent::Resync`] says so.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{EventfdFlags, eventfd};

use super::counter::{LinkOptions, Place, Reading, SourceError};
use super::netlink::{
    Inquiry, Link, RTM_DELLINK, RTM_NEWLINK, decode, messages, receive, wait_for_either,
};

/// `RTNLGRP_LINK` of `linux/rtnetlink.h`: kernel ABI, fixed.
const RTNLGRP_LINK: u32 = 1;
const ENOBUFS: i32 = 105;

/// What happened to the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// It can carry packets. Also the first event, if it is so at the start.
    Up {
        /// The interface index; another than before is another life of its counter.
        index: u32,
    },
    /// It exists and can't carry packets. Also the first event, if it is so at the start.
    Down {
        /// The interface index.
        index: u32,
    },
    /// It was deleted or moved to another network namespace, or another interface took its name.
    Removed {
        /// The interface index.
        index: u32,
        /// Its final counters, metered as the options say. `None` if the kernel's message had none that
        /// could be used, or if the removal itself was missed (it follows a [`LinkEvent::Resync`] then).
        last: Option<Reading>,
    },
    /// The consumer was too slow and events were lost. The present state follows, if it changed.
    Resync,
    /// Watching ended because the kernel can't be asked any more; nothing follows.
    Failed {
        /// What went wrong.
        reason: String,
    },
}

/// Watches until it is dropped.
pub struct LinkWatch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl LinkWatch {
    /// Begins to watch an interface, which need not exist yet. `on_event` is called on a thread of its
    /// own, first with the present state (nothing if the interface does not exist). It may block: then the
    /// kernel's buffer takes up what comes, and overflows into [`LinkEvent::Resync`]. `life` is the index of the
    /// interface where it is known, because it may have another name by now.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn begin(
        options: LinkOptions,
        life: Option<u32>,
        on_event: impl FnMut(LinkEvent) + Send + 'static,
    ) -> Result<LinkWatch, SourceError> {
        LinkWatch::begin_with(options, life, None, on_event)
    }

    fn begin_with(
        options: LinkOptions,
        life: Option<u32>,
        buffer_octets: Option<i32>,
        mut on_event: impl FnMut(LinkEvent) + Send + 'static,
    ) -> Result<LinkWatch, SourceError> {
        let place = Place::here()?;
        let failed = |source| SourceError::Netlink {
            name: options.interface.clone(),
            source,
        };
        // Subscribed before the first question, so that no change falls between the two.
        let socket = subscribe(buffer_octets).map_err(failed)?;
        let inquiry = Inquiry::open().map_err(failed)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let stop = Arc::new(stop);
        let mut watch = Watch {
            known: Known {
                options: options.clone(),
                place,
                link: None,
            },
            socket,
            inquiry,
            life,
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new()
            .name("link".to_owned())
            .spawn(move || {
                if let Err(error) = watch.run(&mut on_event) {
                    on_event(LinkEvent::Failed {
                        reason: error.to_string(),
                    });
                }
            })
            .map_err(failed)?;
        Ok(LinkWatch {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for LinkWatch {
    /// Ends the thread and waits for it: after this no event comes.
    fn drop(&mut self) {
        // Adding 1 to an eventfd fails only when its counter is full, and then it is readable as well.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of the consumer's callback was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn subscribe(buffer_octets: Option<i32>) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(RTNLGRP_LINK)?;
    socket.set_non_blocking(true)?;
    if let Some(octets) = buffer_octets {
        socket.set_rx_buf_sz(octets)?;
    }
    Ok(socket)
}

struct Watch {
    known: Known,
    socket: Socket,
    inquiry: Inquiry,
    /// What to look for at the start if nothing has the name.
    life: Option<u32>,
    stop: Arc<OwnedFd>,
}

impl Watch {
    fn run(&mut self, on_event: &mut impl FnMut(LinkEvent)) -> io::Result<()> {
        self.refresh(on_event)?;
        let mut buffer = Vec::new();
        loop {
            if wait_for_either(&self.socket, &self.stop)? {
                return Ok(());
            }
            match receive(&self.socket, &mut buffer) {
                // Only the kernel is believed.
                Ok(0) => self.datagram(&buffer, on_event)?,
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                    on_event(LinkEvent::Resync);
                    self.refresh(on_event)?;
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn datagram(
        &mut self,
        datagram: &[u8],
        on_event: &mut impl FnMut(LinkEvent),
    ) -> io::Result<()> {
        for message in messages(datagram) {
            let message = message?;
            let removed = match message.message_type() {
                RTM_NEWLINK => false,
                RTM_DELLINK => true,
                _ => continue,
            };
            if let Some(link) = decode(message.payload())? {
                self.known.heard(&link, removed, on_event);
            }
        }
        Ok(())
    }

    /// Asks for the present state, at the start and after events were lost.
    fn refresh(&mut self, on_event: &mut impl FnMut(LinkEvent)) -> io::Result<()> {
        let named = self.inquiry.link(&self.known.options.interface)?;
        let known = self.known.link.map(|(index, _)| index).or(self.life.take());
        let now = match (named, known) {
            (Some(link), _) => Some(link),
            (None, Some(index)) => self.inquiry.link_at(index)?,
            (None, None) => None,
        };
        self.known.is(now.as_ref(), on_event);
        Ok(())
    }
}

/// What was last reported, and what of the news is to be reported.
struct Known {
    options: LinkOptions,
    place: Place,
    /// Index and whether it could carry packets.
    link: Option<(u32, bool)>,
}

impl Known {
    fn heard(&mut self, link: &Link, removed: bool, on_event: &mut impl FnMut(LinkEvent)) {
        let named = link.name == self.options.interface;
        let known = self.link.is_some_and(|(index, _)| index == link.index);
        if known && removed {
            self.link = None;
            let last = self.place.reading(&self.options, link);
            if let Err(error) = &last {
                tracing::warn!(interface = %self.options.interface, %error, "final counters unusable");
            }
            on_event(LinkEvent::Removed {
                index: link.index,
                last: last.ok(),
            });
        } else if (known || named) && !removed {
            self.is(Some(link), on_event);
        }
    }

    fn is(&mut self, now: Option<&Link>, on_event: &mut impl FnMut(LinkEvent)) {
        let now = now.map(|link| (link.index, link.running));
        let before = std::mem::replace(&mut self.link, now);
        if now == before {
            return;
        }
        if let Some((index, _)) = before
            && now.is_none_or(|(other, _)| other != index)
        {
            on_event(LinkEvent::Removed { index, last: None });
        }
        match now {
            Some((index, true)) => on_event(LinkEvent::Up { index }),
            Some((index, false)) => on_event(LinkEvent::Down { index }),
            None => {}
        }
    }
}
