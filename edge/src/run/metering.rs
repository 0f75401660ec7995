//! The meter's end of the world: a source, and the watch on its interface.
//!
//! The agent's own octets, and those that the gate dropped, are told apart by a gate in the kernel only; elsewhere
//! [`Reading::own`] is always 0, so that they are charged like all others.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use simquota_shared::ids::Text;

use crate::agent::{Identity, Input, Reading};
use crate::config::{Metered, Settings};
use crate::io::counter::{self, LinkSource, Source, SourceError};
use crate::io::gate::Apart;
use crate::io::link::{LinkEvent, LinkWatch};
use crate::io::trace::TraceSource;

/// An interface that came back under its name was removed before: so long that message may take to arrive.
const REMOVAL_WITHIN: Duration = Duration::from_millis(200);

pub(super) struct Metering {
    source: Box<dyn Source>,
    name: String,
    watch: Option<Watch>,
    /// The index of the interface as it was opened.
    life: Option<u32>,
    /// Up + down at the last reading.
    counted: Option<u64>,
    /// The last reading, while the life that it is of may go on.
    last: Option<counter::Reading>,
    error: Option<String>,
    /// What the gate told apart, as of the last reading.
    apart: Apart,
    /// Read since [`Metering::met_gate`] was last asked.
    fresh: bool,
}

struct Watch {
    events: Receiver<LinkEvent>,
    kept: VecDeque<LinkEvent>,
    _thread: Option<LinkWatch>,
}

impl Metering {
    /// Opens what is to be metered. `bell` is called when the link watch has something.
    /// `before` is what an earlier process has metered last.
    pub(super) fn open(
        settings: &Settings,
        before: Option<&Identity>,
        bell: impl Fn() + Send + 'static,
    ) -> Result<Metering, SourceError> {
        let mut life = None;
        let (source, name, watch): (Box<dyn Source>, _, _) = match &settings.source {
            Metered::Interface { options, wait } => {
                let mut source = LinkSource::open(options.clone())?;
                let followed = before.map(of_agent).and_then(|it| source.follow(&it));
                let first = source.read(0);
                life = match first {
                    Ok(first) => Some(first.identity.index),
                    // A name that is wrong is told at once, not with the first reading that fails.
                    Err(error) if !wait => return Err(error),
                    Err(_) => None,
                };
                let (sender, events) = channel();
                let thread = LinkWatch::begin(options.clone(), life.or(followed), move |event| {
                    // The agent ends before its watch does: then nobody wants to know.
                    let _ = sender.send(event);
                    bell();
                })?;
                let watch = Watch {
                    events,
                    kept: VecDeque::new(),
                    _thread: Some(thread),
                };
                let name = format!("interface {}", options.interface);
                (Box::new(source), name, Some(watch))
            }
            Metered::Trace(options) => {
                let source = TraceSource::open(options)?;
                (
                    Box::new(source),
                    format!("trace {}", options.trace.display()),
                    None,
                )
            }
        };
        Ok(Metering {
            source,
            name,
            watch,
            life,
            counted: None,
            last: None,
            error: None,
            apart: Apart::default(),
            fresh: false,
        })
    }

    /// Reads the counter. `apart` is what the gate told apart just before.
    pub(super) fn read(&mut self, now_ms: u64, apart: Apart) -> Input {
        self.fresh = true;
        self.apart = apart;
        match self.source.read(now_ms) {
            Ok(reading) => {
                if self.error.take().is_some() {
                    tracing::info!(source = self.name, "meter can be read again");
                }
                // The last octets of a life come before the first ones of the next.
                let Some(last) = self.last_of_before(&reading) else {
                    return Input::Reading(self.take(reading));
                };
                let last = self.take(last);
                self.last = None;
                Input::Reading(last)
            }
            Err(error) => {
                let error = error.to_string();
                if self.error.as_ref() != Some(&error) {
                    tracing::warn!(source = self.name, error, "meter could not be read");
                }
                self.error = Some(error);
                Input::NoReading
            }
        }
    }

    fn take(&mut self, reading: counter::Reading) -> Reading {
        self.counted = Some(reading.up.saturating_add(reading.down));
        let identity = &reading.identity;
        let taken = Reading {
            identity: Identity {
                boot_id: Text::clipped(&identity.boot_id),
                netns: identity.namespace,
                index: u64::from(identity.index),
                name: Text::clipped(&identity.name),
            },
            up: reading.up,
            down: reading.down,
            own: self.apart.own,
            dropped: self.apart.dropped,
        };
        self.last = Some(reading);
        taken
    }

    /// What a counter showed at its end, if `reading` is the first of another one.
    fn last_of_before(&mut self, reading: &counter::Reading) -> Option<counter::Reading> {
        let before = self.last.clone()?;
        let watch = self.watch.as_mut()?;
        if before.identity == reading.identity {
            return None;
        }
        loop {
            if let Some(last) = watch
                .kept
                .iter_mut()
                .find_map(|event| last_of(event, &before))
            {
                return Some(last);
            }
            let event = watch.events.recv_timeout(REMOVAL_WITHIN).ok()?;
            watch.kept.push_back(event);
        }
    }

    /// What happened to the interface, as inputs; none when nothing did.
    pub(super) fn next_link_event(&mut self) -> Option<Vec<Input>> {
        let watch = self.watch.as_mut()?;
        let event = watch
            .kept
            .pop_front()
            .or_else(|| watch.events.try_recv().ok())?;
        tracing::info!(source = self.name, ?event, "link changed");
        Some(match event {
            LinkEvent::Up { .. } => vec![Input::ReturnSim],
            LinkEvent::Down { .. } | LinkEvent::Resync => Vec::new(),
            LinkEvent::Removed { index, last } => {
                // The SIM is out of reach (S33, S5): its last octets are stored, the rest of the grant goes back.
                let closed = self.source.finished();
                let before = self.last.as_ref().filter(|_| !closed);
                let last = last
                    .zip(before)
                    .and_then(|(last, before)| ending(last, before));
                let last = last.map(|last| self.take(last));
                // Another life may have begun, and been read, before the word of this end came.
                self.last.take_if(|known| known.identity.index == index);
                vec![Input::LoseSim(last)]
            }
            LinkEvent::Failed { reason } => {
                tracing::error!(
                    source = self.name,
                    reason,
                    "links are not watched any more; restart the agent"
                );
                Vec::new()
            }
        })
    }

    /// One more reading, and none after it.
    pub(super) fn close(&mut self, now_ms: u64) {
        // Its value comes with the agent's next reading.
        if let Err(error) = self.source.read(now_ms) {
            tracing::warn!(source = self.name, %error, "meter could not be read at its end");
        }
        self.source.close();
    }

    /// Whether octets met the gate at a reading that was not asked about before.
    pub(super) fn met_gate(&mut self) -> bool {
        std::mem::take(&mut self.fresh) && self.source.blocked()
    }

    /// The interface's index, if the last reading was of its counter as it stands: not of one that has ended, nor one
    /// that failed.
    pub(super) fn live(&self) -> Option<u32> {
        let reading = self.last.as_ref()?;
        (self.error.is_none() && !self.source.finished()).then_some(reading.identity.index)
    }

    /// The interface's index at the start, where there was one.
    pub(super) const fn first_life(&self) -> Option<u32> {
        self.life
    }

    pub(super) const fn counted(&self) -> Option<u64> {
        self.counted
    }

    pub(super) fn source(&mut self) -> &mut dyn Source {
        self.source.as_mut()
    }

    pub(super) fn finished(&self) -> bool {
        self.source.finished()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

/// What the agent stored, in the counter's words.
fn of_agent(identity: &Identity) -> counter::Identity {
    counter::Identity {
        boot_id: identity.boot_id.as_str().to_owned(),
        namespace: identity.netns,
        // No index is larger; 0 is none.
        index: u32::try_from(identity.index).unwrap_or(0),
        name: identity.name.as_str().to_owned(),
    }
}

/// Takes the final reading out of the removal of the life that `before` is of.
fn last_of(event: &mut LinkEvent, before: &counter::Reading) -> Option<counter::Reading> {
    match event {
        LinkEvent::Removed { last, .. } => {
            let last = last.take_if(|last| last.identity == before.identity)?;
            ending(last, before)
        }
        LinkEvent::Up { .. }
        | LinkEvent::Down { .. }
        | LinkEvent::Resync
        | LinkEvent::Failed { .. } => None,
    }
}

/// The final counters of a life, if they are of the life that `before` was read in.
///
/// A driver may have taken half of its statistics down by then (veth receives nothing any more once its peer is
/// gone). A counter that goes back within a life would read as one that began anew, and all of it would be counted
/// again: what was read before stands in that direction.
fn ending(last: counter::Reading, before: &counter::Reading) -> Option<counter::Reading> {
    (last.identity == before.identity).then(|| counter::Reading {
        up: last.up.max(before.up),
        down: last.down.max(before.down),
        ..last
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn reading(index: u32, up: u64, down: u64) -> counter::Reading {
        counter::Reading {
            identity: counter::Identity {
                boot_id: "b".to_owned(),
                namespace: 1,
                index,
                name: "wwan0".to_owned(),
            },
            up,
            down,
            packets_up: 0,
            packets_down: 0,
        }
    }

    /// An interface that shows these readings, one after the other.
    struct Shown(Vec<counter::Reading>);

    impl Source for Shown {
        fn read(&mut self, _: u64) -> Result<counter::Reading, SourceError> {
            let next = (self.0.len() > 1).then(|| self.0.remove(0));
            next.or_else(|| self.0.first().cloned())
                .ok_or(SourceError::Closed)
        }
        fn limit(&mut self, _: Option<u64>) {}
        fn finished(&self) -> bool {
            false
        }
        fn close(&mut self) {}
    }

    fn metering(shown: Vec<counter::Reading>) -> (Metering, std::sync::mpsc::Sender<LinkEvent>) {
        let (sender, events) = channel();
        let watch = Watch {
            events,
            kept: VecDeque::new(),
            _thread: None,
        };
        let metering = Metering {
            source: Box::new(Shown(shown)),
            name: "interface wwan0".to_owned(),
            watch: Some(watch),
            life: None,
            counted: None,
            last: None,
            error: None,
            apart: Apart::default(),
            fresh: false,
        };
        (metering, sender)
    }

    fn removed(last: counter::Reading) -> LinkEvent {
        LinkEvent::Removed {
            index: last.identity.index,
            last: Some(last),
        }
    }

    fn shown(input: &Input) -> (u64, u64, u64) {
        match input {
            Input::Reading(reading) | Input::LoseSim(Some(reading)) => {
                (reading.identity.index, reading.up, reading.down)
            }
            _ => (0, 0, 0),
        }
    }

    #[test]
    fn a_removal_brings_the_last_octets_and_leaves_the_sim() {
        let (mut metering, events) = metering(vec![reading(2, 10, 20)]);
        assert_eq!(shown(&metering.read(0, Apart::default())), (2, 10, 20));
        events.send(removed(reading(2, 15, 0))).unwrap();
        let inputs = metering.next_link_event().unwrap();
        // 0 received is the statistics being taken down, not a counter that began anew.
        assert_eq!(shown(inputs.first().unwrap()), (2, 15, 20));
        assert!(matches!(inputs.as_slice(), [Input::LoseSim(Some(_))]));
        assert!(metering.next_link_event().is_none());
    }

    #[test]
    fn the_end_of_one_life_is_read_before_the_beginning_of_the_next() {
        let (mut metering, events) = metering(vec![reading(2, 10, 20), reading(3, 1, 1)]);
        metering.read(0, Apart::default());
        events.send(removed(reading(2, 11, 22))).unwrap();
        events.send(LinkEvent::Up { index: 3 }).unwrap();
        assert_eq!(shown(&metering.read(1, Apart::default())), (2, 11, 22));
        assert_eq!(shown(&metering.read(2, Apart::default())), (3, 1, 1));
        // The word of the removal leaves the SIM all the same, and counts nothing a second time.
        assert_eq!(metering.next_link_event(), Some(vec![Input::LoseSim(None)]));
        assert_eq!(metering.next_link_event(), Some(vec![Input::ReturnSim]));
    }
}
