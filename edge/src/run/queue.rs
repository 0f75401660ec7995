//! The one queue through which the world reaches the agent's thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel as queue};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use simquota_shared::ids::{Iccid, ZoneId};

use super::Snapshot;
use crate::config::Settings;
use crate::io::channel::Reach;
use crate::io::gate::nft::TableEvent;
use crate::io::hook::Outcome;
use crate::io::mqtt::MqttEvent;
use crate::io::service::Service;

/// Messages that may wait. Whatever is dropped beyond that is asked for again by the agent's timers.
const MESSAGES_MAX: usize = 256;

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    Order(Order),
    /// On the connection of this number: what an earlier one still has to say is over.
    Broker(u64, MqttEvent),
    /// The link watch has something.
    Link,
    /// Something happened to the gate in the kernel.
    Gate(TableEvent),
    /// What of the channels can be used.
    Channels(std::io::Result<Vec<Reach>>),
    /// The configuration was read again.
    Reload(Box<Settings>),
    /// The SIM's hook has ended.
    Hook(Outcome),
}

/// What an agent is told by whoever runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Shutdown,
    LeaveSim,
    ReturnSim,
    SimChanged(Iccid),
    ZoneChanged(ZoneId),
    CloseMeter,
}

/// Orders for a running agent. All of them return at once; after its end they do nothing.
#[derive(Clone, Debug)]
pub struct Control {
    sender: Sender<Event>,
    seen: Arc<Mutex<Option<Snapshot>>>,
}

/// The agent's end of a [`Control`].
#[derive(Debug)]
pub struct Orders {
    receiver: Receiver<Event>,
    sender: Sender<Event>,
    seen: Arc<Mutex<Option<Snapshot>>>,
    pub(super) service: Service,
}

/// A control and the orders that come through it.
#[must_use]
pub fn channel() -> (Control, Orders) {
    let (sender, receiver) = queue();
    let seen = Arc::new(Mutex::new(None));
    let control = Control {
        sender: sender.clone(),
        seen: Arc::clone(&seen),
    };
    let orders = Orders {
        receiver,
        sender,
        seen,
        service: Service::default(),
    };
    (control, orders)
}

impl Control {
    /// To end in order: store the last octets, report, give the rest of the grant back.
    pub fn shutdown(&self) {
        self.send(Order::Shutdown);
    }

    /// The device leaves the cloud SIM for another network (patent step S33).
    pub fn leave_sim(&self) {
        self.send(Order::LeaveSim);
    }

    /// The device is on the cloud SIM again.
    pub fn return_sim(&self) {
        self.send(Order::ReturnSim);
    }

    /// Another SIM is in the device.
    pub fn sim_changed(&self, iccid: Iccid) {
        self.send(Order::SimChanged(iccid));
    }

    /// The SIM's network is in another zone.
    pub fn zone_changed(&self, zone: ZoneId) {
        self.send(Order::ZoneChanged(zone));
    }

    /// The configuration was read again: what can change while it runs does, and the log names what can't.
    pub fn reload(&self, settings: Settings) {
        let _ = self.sender.send(Event::Reload(Box::new(settings)));
    }

    /// Takes one more reading and counts nothing after it.
    pub fn close_meter(&self) {
        self.send(Order::CloseMeter);
    }

    /// The latest status; none before the first.
    #[must_use]
    pub fn status(&self) -> Option<Snapshot> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn send(&self, order: Order) {
        // Nobody listens after the end, and then the order has no object.
        let _ = self.sender.send(Event::Order(order));
    }
}

impl Orders {
    /// The same, and the service manager hears how it goes.
    #[must_use]
    pub fn under(mut self, service: Service) -> Orders {
        self.service = service;
        self
    }

    /// The next event; none when the time is over.
    pub(super) fn wait(&self, at_most: Duration) -> Option<Event> {
        // An error is the end of the time: this end holds a sender itself, so the queue is never without one.
        self.receiver.recv_timeout(at_most).ok()
    }

    pub(super) fn show(&self, snapshot: Snapshot) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    /// What the link watch calls when it has something.
    pub(super) fn bell(&self) -> impl Fn() + Send + use<> {
        let sender = self.sender.clone();
        move || {
            let _ = sender.send(Event::Link);
        }
    }

    /// What the gate's watch calls.
    pub(super) fn gate(&self) -> impl Fn(TableEvent) + Send + use<> {
        let sender = self.sender.clone();
        move |event| {
            let _ = sender.send(Event::Gate(event));
        }
    }

    /// What the watch on the channels calls.
    pub(super) fn channels(&self) -> impl Fn(std::io::Result<Vec<Reach>>) + Send + use<> {
        let sender = self.sender.clone();
        move |now| {
            let _ = sender.send(Event::Channels(now));
        }
    }

    /// What the SIM's hook calls at its end.
    pub(super) fn hook(&self) -> impl FnOnce(Outcome) + Send + use<> {
        let sender = self.sender.clone();
        move |outcome| {
            let _ = sender.send(Event::Hook(outcome));
        }
    }

    /// What a connection calls; and how many messages it had to drop because the agent was slow.
    pub(super) fn broker(&self, connection: u64) -> (impl Fn(MqttEvent) + Send + use<>, Inbox) {
        let sender = self.sender.clone();
        let inbox = Inbox::default();
        let counted = inbox.clone();
        let deliver = move |event| {
            match &event {
                // Frees a place in the window, which nobody here waits for.
                MqttEvent::Acked { .. } => return,
                MqttEvent::Message { .. } if !counted.admit() => return,
                _ => {}
            }
            let _ = sender.send(Event::Broker(connection, event));
        };
        (deliver, inbox)
    }
}

/// Counts the messages of one connection that wait, so that a flood of them takes no memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox {
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

impl Inbox {
    fn admit(&self) -> bool {
        let admitted = self.waiting.load(Ordering::Relaxed) < MESSAGES_MAX;
        let counter = if admitted {
            &self.waiting
        } else {
            &self.dropped
        };
        counter.fetch_add(1, Ordering::Relaxed);
        admitted
    }

    /// One was taken out of the queue.
    pub(super) fn taken(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many were dropped since this was last asked.
    pub(super) fn dropped(&self) -> usize {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    fn message() -> MqttEvent {
        MqttEvent::Message {
            topic: "t".to_owned(),
            payload: Vec::new(),
            retain: false,
        }
    }

    #[test]
    fn a_flood_of_messages_is_bounded_and_counted_and_hides_no_disconnect() {
        let (_control, orders) = channel();
        let (deliver, inbox) = orders.broker(3);
        for _ in 0..MESSAGES_MAX + 50 {
            deliver(message());
        }
        deliver(MqttEvent::Acked { count: 1 });
        deliver(MqttEvent::Closed { flushed: true });
        assert_eq!(inbox.dropped(), 50);
        assert_eq!(inbox.dropped(), 0);
        for _ in 0..MESSAGES_MAX {
            let Some(Event::Broker(3, MqttEvent::Message { .. })) = orders.wait(Duration::ZERO)
            else {
                panic!("not a message");
            };
            inbox.taken();
        }
        let last = orders.wait(Duration::ZERO).unwrap();
        assert!(matches!(last, Event::Broker(3, MqttEvent::Closed { .. })));
        assert!(orders.wait(Duration::ZERO).is_none());
        deliver(message());
        assert!(orders.wait(Duration::ZERO).is_some());
    }

    #[test]
    fn orders_arrive_in_order_and_do_nothing_after_the_end() {
        let (control, orders) = channel();
        control.leave_sim();
        control.shutdown();
        for expected in [Order::LeaveSim, Order::Shutdown] {
            let Some(Event::Order(order)) = orders.wait(Duration::ZERO) else {
                panic!("not an order");
            };
            assert_eq!(order, expected);
        }
        drop(orders);
        control.shutdown();
        assert_eq!(control.status(), None);
    }
}
