//! What the connections hand to the pipeline: bounded queues, control before usage.
//!
//! The connections' tasks never wait here. The broker's window is meant to bound what it delivers, but mosquitto 2.0
//! sends more than it was asked for, at its worst when a session is resumed: a connection that was ended over that
//! would be resumed into the same flood, and nothing would be taken in any more. So what waits is bounded in octets,
//! far beyond any window; past that the connection is ended, and what was not acknowledged comes again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::charging::Outgoing;
use crate::io::mqtt::{Delivery, Flow, MqttEvent};

/// The most notices that wait; the oldest goes first, since only the latest state counts.
const NOTICES_MAX: usize = 1000;

/// Which session a message came over. No grant waits behind a backlog of usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Registrations, credit requests, commands.
    Control,
    /// Usage.
    Usage,
}

impl Lane {
    pub(crate) const BOTH: [Self; 2] = [Self::Control, Self::Usage];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Usage => "usage",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the pipeline should know besides messages.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Something happened on a connection.
    Line(Lane, Box<MqttEvent>),
    /// A question was answered out of the journal.
    Answer(Vec<Outgoing>),
}

/// What there is to do.
#[derive(Debug, Default)]
pub(crate) struct Taken<D = Delivery> {
    pub(crate) notices: Vec<Notice>,
    pub(crate) deliveries: Vec<(Lane, D)>,
    pub(crate) stop: bool,
}

#[derive(Debug)]
struct Queues<D> {
    control: Queue<D>,
    usage: Queue<D>,
    notices: VecDeque<Notice>,
    stop: bool,
    /// Messages at QoS 0 for which there was no room.
    dropped: u64,
}

/// The messages of one lane, each with its size in octets.
#[derive(Debug)]
struct Queue<D> {
    waiting: VecDeque<(usize, D)>,
    octets: usize,
}

impl<D> Queue<D> {
    const fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            octets: 0,
        }
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the first `count`.
    fn drain(&mut self, count: usize) -> impl Iterator<Item = D> {
        self.waiting.drain(..count).map(|(octets, delivery)| {
            self.octets = self.octets.saturating_sub(octets);
            delivery
        })
    }
}

impl<D> Queues<D> {
    fn lane(&mut self, lane: Lane) -> &mut Queue<D> {
        match lane {
            Lane::Control => &mut self.control,
            Lane::Usage => &mut self.usage,
        }
    }
}

/// The queues between the connections and the pipeline.
#[derive(Debug)]
pub(crate) struct Inbox<D = Delivery> {
    queues: Mutex<Queues<D>>,
    ready: Condvar,
    /// Octets of one lane that may wait, a message's own place included.
    lane_octets_max: usize,
}

/// What a waiting message takes beside its topic and payload: places in the queue and the heap.
const PLACE_OCTETS: usize = 512;

impl<D> Inbox<D> {
    pub(crate) fn new(lane_octets_max: usize) -> Self {
        Self {
            queues: Mutex::new(Queues {
                control: Queue::new(),
                usage: Queue::new(),
                notices: VecDeque::new(),
                stop: false,
                dropped: 0,
            }),
            ready: Condvar::new(),
            lane_octets_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues<D>> {
        // A panic while it was held can't have left it half changed.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message of so many octets in; `comes_again` says whether the broker keeps it until it is acknowledged.
    fn push(&self, lane: Lane, octets: usize, delivery: D, comes_again: bool) -> Flow {
        let octets = octets.saturating_add(PLACE_OCTETS);
        let mut queues = self.lock();
        let queue = queues.lane(lane);
        let filled = queue.octets.saturating_add(octets);
        // A message larger than the bound alone would never come through.
        if filled <= self.lane_octets_max || queue.is_empty() {
            queue.octets = filled;
            queue.waiting.push_back((octets, delivery));
            self.ready.notify_one();
            return Flow::Go;
        }
        if comes_again {
            return Flow::BreakOff;
        }
        queues.dropped = queues.dropped.saturating_add(1);
        Flow::Go
    }

    /// Says something to the pipeline.
    pub(crate) fn notice(&self, notice: Notice) {
        let mut queues = self.lock();
        if queues.notices.len() >= NOTICES_MAX {
            queues.notices.pop_front();
        }
        queues.notices.push_back(notice);
        self.ready.notify_one();
    }

    /// Asks the pipeline to stop after what it does now.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.ready.notify_one();
    }

    /// Messages at QoS 0 that there was no room for, since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// How many messages wait in each lane, and their octets.
    pub(crate) fn waiting(&self) -> [(Lane, usize, usize); 2] {
        let mut queues = self.lock();
        Lane::BOTH.map(|lane| {
            let queue = queues.lane(lane);
            (lane, queue.len(), queue.octets)
        })
    }

    fn forget(&self, lane: Lane) {
        *self.lock().lane(lane) = Queue::new();
    }

    /// Waits for something to do, and takes at most `most` messages: control first, but a tenth of the places is for
    /// usage, so that a flood of one does not starve the other.
    pub(crate) fn take(&self, most: usize, wait: Duration) -> Taken<D> {
        let idle = |queues: &mut Queues<D>| {
            queues.control.is_empty()
                && queues.usage.is_empty()
                && queues.notices.is_empty()
                && !queues.stop
        };
        let (mut queues, _) = self
            .ready
            .wait_timeout_while(self.lock(), wait, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let for_usage = queues.usage.len().min(most.div_ceil(10));
        let control = queues.control.len().min(most.saturating_sub(for_usage));
        let usage = queues.usage.len().min(most.saturating_sub(control));
        let mut deliveries = Vec::with_capacity(control.saturating_add(usage));
        deliveries.extend(queues.control.drain(control).map(|d| (Lane::Control, d)));
        deliveries.extend(queues.usage.drain(usage).map(|d| (Lane::Usage, d)));
        Taken {
            notices: queues.notices.drain(..).collect(),
            deliveries,
            stop: queues.stop,
        }
    }

    /// Waits for notices alone: at the end, when messages stay with the broker.
    pub(crate) fn take_notices(&self, wait: Duration) -> Vec<Notice> {
        let silent = |queues: &mut Queues<D>| queues.notices.is_empty();
        let (mut queues, _) = self
            .ready
            .wait_timeout_while(self.lock(), wait, silent)
            .unwrap_or_else(PoisonError::into_inner);
        queues.notices.drain(..).collect()
    }
}

impl Inbox<Delivery> {
    /// What a connection does with its events. It never waits.
    pub(crate) fn on_event(&self, lane: Lane, event: MqttEvent) -> Flow {
        match event {
            MqttEvent::Message(delivery) => {
                let comes_again = delivery.comes_again();
                self.push(lane, delivery.octets(), delivery, comes_again)
            }
            other => {
                if matches!(other, MqttEvent::Disconnected { .. }) {
                    // They come again over the next connection, and only there they can be acknowledged.
                    self.forget(lane);
                }
                self.notice(Notice::Line(lane, Box::new(other)));
                Flow::Go
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn filled(control: u32, usage: u32) -> Inbox<u32> {
        let inbox = Inbox::new(100 * PLACE_OCTETS);
        for number in 0..usage {
            assert_eq!(inbox.push(Lane::Usage, 0, number, true), Flow::Go);
        }
        for number in 0..control {
            assert_eq!(inbox.push(Lane::Control, 0, number, true), Flow::Go);
        }
        inbox
    }

    fn numbers(taken: &Taken<u32>, lane: Lane) -> Vec<u32> {
        let of_lane = taken.deliveries.iter().filter(|(of, _)| *of == lane);
        of_lane.map(|(_, number)| *number).collect()
    }

    #[test]
    fn control_goes_first_and_each_lane_keeps_its_order() {
        let inbox = filled(3, 5);
        let taken = inbox.take(100, NOW);
        assert_eq!(taken.deliveries.first(), Some(&(Lane::Control, 0)));
        assert_eq!(numbers(&taken, Lane::Control), [0, 1, 2]);
        assert_eq!(numbers(&taken, Lane::Usage), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_flood_of_control_leaves_a_tenth_to_usage() {
        let inbox = filled(50, 50);
        let taken = inbox.take(20, NOW);
        assert_eq!(numbers(&taken, Lane::Control).len(), 18);
        assert_eq!(numbers(&taken, Lane::Usage), [0, 1]);
        // Order goes on where it stopped.
        assert_eq!(numbers(&inbox.take(20, NOW), Lane::Usage), [2, 3]);
    }

    #[test]
    fn at_the_bound_a_connection_ends_and_qos_0_is_counted() {
        let inbox: Inbox<u32> = Inbox::new(2 * PLACE_OCTETS);
        assert_eq!(inbox.push(Lane::Usage, PLACE_OCTETS, 1, true), Flow::Go);
        assert_eq!(inbox.push(Lane::Usage, 1, 2, true), Flow::BreakOff);
        assert_eq!(inbox.push(Lane::Usage, 1, 3, false), Flow::Go);
        assert_eq!(inbox.dropped(), 1);
        assert_eq!(inbox.push(Lane::Control, 9_999, 4, true), Flow::Go);
        assert_eq!(numbers(&inbox.take(9, NOW), Lane::Usage), [1]);
        assert_eq!(inbox.push(Lane::Usage, PLACE_OCTETS, 5, true), Flow::Go);
        inbox.forget(Lane::Usage);
        assert_eq!(numbers(&inbox.take(9, NOW), Lane::Usage), [0_u32; 0]);
        assert_eq!(inbox.push(Lane::Usage, PLACE_OCTETS, 6, true), Flow::Go);
    }

    #[test]
    fn of_too_many_notices_the_oldest_go() {
        let inbox: Inbox<u32> = Inbox::new(1);
        let connected = |generation| MqttEvent::Connected {
            generation,
            session_present: false,
        };
        for number in 0..NOTICES_MAX as u64 + 5 {
            inbox.notice(Notice::Line(Lane::Usage, Box::new(connected(number))));
        }
        let notices = inbox.take(9, NOW).notices;
        assert_eq!(notices.len(), NOTICES_MAX);
        let first = notices.first().map(|notice| match notice {
            Notice::Line(_, event) => format!("{event:?}"),
            Notice::Answer(_) => String::new(),
        });
        let expected = format!("{:?}", connected(5));
        assert_eq!(first, Some(expected));
    }

    #[test]
    fn stopping_and_notices_wake_the_pipeline() {
        let inbox: Inbox<u32> = Inbox::new(1);
        inbox.notice(Notice::Answer(Vec::new()));
        inbox.stop();
        let taken = inbox.take(9, Duration::from_secs(30));
        assert!(taken.stop);
        assert_eq!(taken.notices.len(), 1);
    }
}
