//! Acknowledgements that are owed to the broker, by packet id.
//!
//! A broker must not use a packet id for a second message while the first is not acknowledged (MQTT 5, 2.2.1). mosquitto
//! 2.0 does under a flood: it counts ids on for messages that it drops, so that they come round while earlier ones
//! still wait. The client library ends the connection over a second acknowledgement of one id; the session would be
//! resumed with the very same ids, and nothing would get in any more, with the flood long over. So the second message of
//! an id is taken and not acknowledged: it keeps its place in the broker's window until the connection ends. Where too
//! many places are gone, the session is ended with it.

use std::collections::HashSet;

/// What one connection owes.
#[derive(Debug)]
pub(super) struct Owed {
    ids: HashSet<u16>,
    /// Messages that came under an id in use.
    twice: u16,
    twice_max: u16,
}

impl Owed {
    /// For a window of so many messages, a quarter of which may be lost.
    pub(super) fn new(receive_max: u16) -> Self {
        Self {
            ids: HashSet::new(),
            twice: 0,
            twice_max: receive_max / 4,
        }
    }

    /// A message came; whether it is to be acknowledged.
    pub(super) fn came(&mut self, id: u16) -> bool {
        let first = self.ids.insert(id);
        if !first {
            self.twice = self.twice.saturating_add(1);
        }
        first
    }

    /// An acknowledgement went out.
    pub(super) fn paid(&mut self, id: u16) {
        self.ids.remove(&id);
    }

    /// Whether too much of the broker's window is gone.
    pub(super) fn is_spent(&self) -> bool {
        self.twice > self.twice_max
    }
}
