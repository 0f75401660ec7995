//! The meter's end of the world: a source, and the watch on its interface.
//!
//! The agent's own octets are not told apart yet: [`Reading::own`] is always 0, so that they are charged like all
//! others.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use simquota_shared::ids::Text;

use crate::agent::{Identity, Input, Reading};
use crate::config::{Metered, Settings};
use crate::io::counter::{self, LinkSource, Source, SourceError};
use crate::io::link::{LinkEvent, LinkWatch};
use crate::io::trace::TraceSource;

/// An interface that came back under its name was removed before: so long that message may take to arrive.
const REMOVAL_WITHIN: Duration = Duration::from_millis(200);

pub(super) struct Metering {
    source: Box<dyn Source>,
    name: String,
    watch: Option<Watch>,
    /// Up + down at the last reading.
    counted: Option<u64>,
    /// Whose life the last reading was of, while that life may go on.
    identity: Option<counter::Identity>,
    error: Option<String>,
    /// Read since [`Metering::met_gate`] was last asked.
    fresh: bool,
}

struct Watch {
    events: Receiver<LinkEvent>,
    kept: VecDeque<LinkEvent>,
    _thread: LinkWatch,
}

impl Metering {
    /// Opens what is to be metered. `bell` is called when the link watch has something.
    pub(super) fn open(
        settings: &Settings,
        bell: impl Fn() + Send + 'static,
    ) -> Result<Metering, SourceError> {
        let (source, name, watch): (Box<dyn Source>, _, _) = match &settings.source {
            Metered::Interface { options, wait } => {
                let mut source = LinkSource::open(options.clone())?;
                if !wait {
                    // A name that is wrong is told at once, not with the first reading that fails.
                    source.read(0)?;
                }
                let (sender, events) = channel();
                let thread = LinkWatch::begin(options.clone(), move |event| {
                    // The agent ends before its watch does: then nobody wants to know.
                    let _ = sender.send(event);
                    bell();
                })?;
                let watch = Watch {
                    events,
                    kept: VecDeque::new(),
                    _thread: thread,
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
            counted: None,
            identity: None,
            error: None,
            fresh: false,
        })
    }

    /// Reads the counter.
    pub(super) fn read(&mut self, now_ms: u64) -> Input {
        self.fresh = true;
        match self.source.read(now_ms) {
            Ok(reading) => {
                if self.error.take().is_some() {
                    tracing::info!(source = self.name, "meter can be read again");
                }
                // The last octets of a life come before the first ones of the next.
                let reading = self.last_of_before(&reading).unwrap_or(reading);
                Input::Reading(self.take(reading))
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
        let counter::Reading {
            identity,
            up,
            down,
            packets_up: _,
            packets_down: _,
        } = reading;
        self.counted = Some(up.saturating_add(down));
        let named = Identity {
            boot_id: Text::clipped(&identity.boot_id),
            netns: identity.namespace,
            index: u64::from(identity.index),
            name: Text::clipped(&identity.name),
        };
        self.identity = Some(identity);
        Reading {
            identity: named,
            up,
            down,
            own: 0,
        }
    }

    /// What a counter showed at its end, if `reading` is the first of another one.
    fn last_of_before(&mut self, reading: &counter::Reading) -> Option<counter::Reading> {
        let before = self.identity.clone()?;
        let watch = self.watch.as_mut()?;
        if before == reading.identity {
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
            LinkEvent::Removed { last, .. } => {
                // The SIM is out of reach (S33, S5): its last octets are stored, the rest of the grant goes back.
                let closed = self.source.finished();
                let same =
                    last.filter(|last| !closed && self.identity.as_ref() == Some(&last.identity));
                let reading = same.map(|last| Input::Reading(self.take(last)));
                self.identity = None;
                reading.into_iter().chain([Input::LeaveSim]).collect()
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

/// Takes the final reading of the life `of` out of its removal.
fn last_of(event: &mut LinkEvent, of: &counter::Identity) -> Option<counter::Reading> {
    match event {
        LinkEvent::Removed { last, .. } => last.take_if(|last| last.identity == *of),
        LinkEvent::Up { .. }
        | LinkEvent::Down { .. }
        | LinkEvent::Resync
        | LinkEvent::Failed { .. } => None,
    }
}
