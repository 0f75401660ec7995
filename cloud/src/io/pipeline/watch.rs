//! What the pipeline watches besides messages: connections, whether subscriptions deliver, and the clock.

use simquota_shared::units::UnixMillis;

use super::inbox::{Lane, Notice};
use super::{ANSWERS_MAX, GOODBYE_MS, Pipeline};
use crate::io::clock;
use crate::io::mqtt::{Deadline, MqttEvent};

/// How long a subscription may take to deliver our own message.
const DELIVERS_WITHIN_MS: u64 = 10_000;
/// A wall clock that runs ahead of the monotonic one by more than this was set.
const JUMP_MS: u64 = 3_600_000;

/// Whether each lane's subscription delivers. RabbitMQ, for one, grants some and delivers nothing.
pub(super) struct ProbeWatch {
    wanted: bool,
    lanes: [LaneState; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LaneState {
    #[default]
    Offline,
    /// Connected with this generation; our own message is on its way since.
    Waiting {
        generation: u64,
        since_ms: u64,
    },
    Delivers,
    Silent {
        generation: u64,
    },
    /// It was silent, and something came after all.
    Mended,
}

impl ProbeWatch {
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            lanes: [LaneState::default(); 2],
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneState {
        let [control, usage] = &mut self.lanes;
        match lane {
            Lane::Control => control,
            Lane::Usage => usage,
        }
    }

    /// A connection was made. True when a probe is to be sent.
    fn connected(&mut self, lane: Lane, generation: u64, now_ms: u64) -> bool {
        *self.lane(lane) = LaneState::Waiting {
            generation,
            since_ms: now_ms,
        };
        self.wanted
    }

    fn disconnected(&mut self, lane: Lane) {
        *self.lane(lane) = LaneState::Offline;
    }

    /// Anything that comes shows that the lane delivers: behind a backlog the probe may be late.
    pub(super) fn heard(&mut self, lane: Lane, of: u64) {
        let state = self.lane(lane);
        match *state {
            LaneState::Waiting { generation, .. } if generation == of => {
                *state = LaneState::Delivers;
            }
            LaneState::Silent { generation } if generation == of => *state = LaneState::Mended,
            _ => {}
        }
    }

    /// The lanes of which something became known just now, and whether they are silent.
    pub(super) fn look(&mut self, now_ms: u64) -> Vec<(Lane, bool)> {
        let wanted = self.wanted;
        let mut news = Vec::new();
        for lane in Lane::BOTH {
            let state = self.lane(lane);
            match *state {
                LaneState::Waiting {
                    generation,
                    since_ms,
                } if wanted && now_ms.saturating_sub(since_ms) >= DELIVERS_WITHIN_MS => {
                    *state = LaneState::Silent { generation };
                    news.push((lane, true));
                }
                LaneState::Mended => {
                    *state = LaneState::Delivers;
                    news.push((lane, false));
                }
                LaneState::Offline
                | LaneState::Waiting { .. }
                | LaneState::Delivers
                | LaneState::Silent { .. } => {}
            }
        }
        news
    }

    /// The lanes that do not deliver.
    pub(super) fn silent(&self) -> Vec<Lane> {
        Lane::BOTH
            .into_iter()
            .zip(self.lanes)
            .filter(|(_, state)| matches!(state, LaneState::Silent { .. }))
            .map(|(lane, _)| lane)
            .collect()
    }
}

/// Whether the wall clock was set forward: then leases must not run out by it.
pub(super) struct JumpWatch {
    wall: UnixMillis,
    monotonic_ms: u64,
    stopped: bool,
}

impl JumpWatch {
    pub(super) fn new(wall: UnixMillis, monotonic_ms: u64) -> Self {
        Self {
            wall,
            monotonic_ms,
            stopped: false,
        }
    }

    /// Whether it ever was.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// False when the clock jumped forward by more than an hour since the last look, or ever before.
    pub(super) fn look(&mut self, wall: UnixMillis, monotonic_ms: u64) -> bool {
        let passed_ms = monotonic_ms.saturating_sub(self.monotonic_ms);
        let ahead_ms = wall.beyond(self.wall).saturating_sub(passed_ms);
        (self.wall, self.monotonic_ms) = (wall, monotonic_ms);
        if ahead_ms > JUMP_MS && !self.stopped {
            self.stopped = true;
            tracing::error!(
                ahead_s = ahead_ms / 1000,
                "clock set forward, no lease or package ends by it: set it right and start the service again"
            );
        }
        !self.stopped
    }
}

impl Pipeline {
    /// Looks at what a connection or the query thread said.
    pub(super) fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Answer(outgoing) => {
                if self.answers.len().saturating_add(outgoing.len()) <= ANSWERS_MAX {
                    self.answers.extend(outgoing);
                } else {
                    tracing::warn!("answer dropped, too many wait");
                }
            }
            Notice::Line(lane, event) => self.line(lane, *event),
        }
    }

    fn line(&mut self, lane: Lane, event: MqttEvent) {
        match event {
            MqttEvent::Connected {
                generation,
                session_present,
            } => {
                tracing::info!(%lane, session_present, "connected to the broker");
                self.observed.silent(lane, false);
                self.observed.connected(lane, true);
                let now_ms = clock::monotonic_ms();
                if self.probes.connected(lane, generation, now_ms)
                    && let Err(why) = self.post.probe(lane)
                {
                    tracing::debug!(%lane, why, "probe not sent");
                }
                if lane == Lane::Control {
                    self.summaries.forget();
                    self.say_status("serving");
                }
            }
            MqttEvent::Disconnected { reason, retry_ms } => {
                self.probes.disconnected(lane);
                self.observed.connected(lane, false);
                tracing::warn!(%lane, reason, retry_ms, "not connected to the broker");
            }
            MqttEvent::SubscribeRefused { filter, reason } => tracing::error!(
                %lane,
                filter,
                reason,
                "subscription refused: give the service the right to it in the broker's access control"
            ),
            MqttEvent::PublishRefused { reason } => {
                tracing::warn!(%lane, reason, "publish refused by the broker");
            }
            MqttEvent::Message(_) | MqttEvent::Closed => {}
        }
    }

    /// Ends both connections and waits until they have said what was queued.
    pub(super) fn say_goodbye(&mut self) {
        self.post.disconnect();
        let deadline = Deadline::within_ms(GOODBYE_MS);
        let mut open = Lane::BOTH.to_vec();
        while !open.is_empty() && !deadline.left().is_zero() {
            let taken = self.inbox.take_notices(deadline.left());
            for notice in taken {
                if let Notice::Line(lane, event) = notice
                    && matches!(*event, MqttEvent::Closed)
                {
                    open.retain(|other| *other != lane);
                }
            }
        }
    }

    /// Says the node's state, kept by the broker.
    pub(super) fn say_status(&mut self, state: &str) {
        // Said again after each connect anyway.
        if !self.post.is_connected(Lane::Control) {
            return;
        }
        let silent = self.probes.silent();
        let state = if let Some(state) = self.read_only_state() {
            state
        } else if silent.is_empty() {
            state.to_owned()
        } else {
            let names: Vec<&str> = silent.iter().map(|lane| lane.name()).collect();
            format!("subscriptions do not deliver: {}", names.join(", "))
        };
        let status = self.operators.status(true, &state, clock::steady());
        self.send_all(status.as_slice(), Deadline::within_ms(0));
    }

    pub(super) fn say_statistics(&mut self) {
        if !self.post.is_connected(Lane::Control) {
            return;
        }
        let devices = self.ledger.devices.len() as u64;
        let figures = self
            .operators
            .statistics(self.ledger.last, devices, clock::steady());
        self.send_all(figures.as_slice(), Deadline::within_ms(0));
    }

    /// Says how many messages were not sent since it last did.
    pub(super) fn log_unsent(&mut self) {
        let unsent = self.post.unsent.saturating_add(self.inbox.dropped());
        if unsent != self.unsent_logged {
            self.unsent_logged = unsent;
            tracing::warn!(
                unsent,
                "messages dropped since the start, devices ask again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_hears_nothing_is_named_once_and_hearing_mends_it() {
        let mut probes = ProbeWatch::new(true);
        assert!(probes.connected(Lane::Usage, 1, 0));
        assert!(probes.connected(Lane::Control, 1, 0));
        probes.heard(Lane::Control, 1);
        assert_eq!(probes.look(DELIVERS_WITHIN_MS - 1), []);
        assert_eq!(probes.look(DELIVERS_WITHIN_MS), [(Lane::Usage, true)]);
        assert_eq!(probes.look(DELIVERS_WITHIN_MS + 1), []);
        assert_eq!(probes.silent(), [Lane::Usage]);
        // A message of an earlier connection says nothing about this one.
        probes.heard(Lane::Usage, 0);
        assert_eq!(probes.silent(), [Lane::Usage]);
        probes.heard(Lane::Usage, 1);
        assert_eq!(probes.silent(), []);
        assert_eq!(probes.look(DELIVERS_WITHIN_MS + 2), [(Lane::Usage, false)]);
        assert_eq!(probes.look(DELIVERS_WITHIN_MS + 3), []);
    }

    #[test]
    fn without_a_connection_or_unwanted_nothing_is_said() {
        let mut probes = ProbeWatch::new(true);
        probes.connected(Lane::Usage, 1, 0);
        probes.disconnected(Lane::Usage);
        assert_eq!(probes.look(u64::MAX), []);
        let mut probes = ProbeWatch::new(false);
        assert!(!probes.connected(Lane::Usage, 1, 0));
        assert_eq!(probes.look(u64::MAX), []);
    }

    #[test]
    fn a_clock_set_forward_stops_the_sweeper_and_time_that_passes_does_not() {
        let hour = JUMP_MS;
        let mut jumps = JumpWatch::new(UnixMillis(0), 0);
        assert!(jumps.look(UnixMillis(10 * hour), 10 * hour));
        assert!(jumps.look(UnixMillis(11 * hour), 10 * hour));
        // Set back: no lease runs out too early by that.
        assert!(jumps.look(UnixMillis(0), 10 * hour));
        assert!(!jumps.look(UnixMillis(hour + 1), 10 * hour));
        assert!(!jumps.look(UnixMillis(hour + 2), 10 * hour + 1));
    }
}
