//! The line to the broker: one for each life of the agent.

use simquota_shared::ids::ChannelId;
use tokio::runtime::Handle;

use super::queue::{Inbox, Orders};
use crate::agent::{Agent, Input, Outgoing, Up};
use crate::config::Settings;
use crate::io::channel::Channel;
use crate::io::mqtt::{self, MqttEvent, Options, OptionsError, PublishError, Publisher, Will};
use crate::io::post::Post;

/// Publishes under way: more than the agent ever has.
const INFLIGHT: u16 = 100;
/// So many refused messages are told one by one, then only each time that their number has doubled.
const REFUSED_TOLD: u64 = 10;

pub(super) struct Line {
    number: u64,
    publisher: Publisher,
    inbox: Inbox,
    connected: bool,
    error: Option<String>,
    channel: Option<ChannelId>,
}

impl Line {
    /// Begins to connect, with the will of the agent's first connection.
    pub(super) fn open(
        number: u64,
        settings: &Settings,
        channel: Option<&Channel>,
        post: &Post,
        agent: &Agent,
        orders: &Orders,
        runtime: &Handle,
    ) -> Result<Line, OptionsError> {
        let broker = &settings.broker;
        let options = Options {
            client_id: post.device().to_string(),
            host: broker.host.clone(),
            port: broker.port,
            tls: settings.tls.clone(),
            username: Some(post.device().to_string()),
            password: Some(post.password()),
            keep_alive_s: broker.keep_alive_s,
            will: will(post, agent),
            subscriptions: vec![post.subscription()],
            inflight: INFLIGHT,
            // What came while we were away is asked for again, or is retained.
            session_expiry_s: 0,
            bind_device: channel.map(|channel| channel.interface.clone()),
        };
        let (deliver, inbox) = orders.broker(number);
        let publisher = mqtt::connect(runtime, options, mqtt::os_random, deliver)?;
        Ok(Line {
            number,
            publisher,
            inbox,
            connected: false,
            error: None,
            channel: channel.map(|channel| channel.id.clone()),
        })
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn connected(&self) -> bool {
        self.connected
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The will of the connection after this one, after the agent has heard of this one.
    pub(super) fn renew_will(&self, post: &Post, agent: &Agent) {
        if let Some(will) = will(post, agent)
            && let Err(error) = self.publisher.set_will(will)
        {
            tracing::warn!(%error, "the last will was not renewed");
        }
    }

    /// Seals and queues a message. What can't be queued is dropped: the agent's timers bring it back.
    pub(super) fn publish(&self, post: &Post, message: &Outgoing) {
        let Outgoing {
            up,
            payload,
            retain,
        } = message;
        let (topic, sealed) = match post.seal(*up, payload) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::error!(?up, %error, "message was not sealed");
                return;
            }
        };
        let octets = sealed.len();
        // Decoded again only for those who read along.
        let trace = tracing::enabled!(tracing::Level::DEBUG)
            .then(|| named(*up, payload))
            .flatten();
        match self.publisher.try_publish(&topic, sealed, *retain) {
            Ok(()) => tracing::debug!(topic, octets, trace, "published"),
            Err(error @ (PublishError::Full | PublishError::Offline | PublishError::Closed)) => {
                tracing::debug!(topic, octets, trace, %error, "not published");
            }
            Err(error @ (PublishError::TooLarge { .. } | PublishError::Topic(_))) => {
                tracing::error!(topic, octets, %error, "not published");
            }
        }
    }

    /// What the agent hears of an event. `refused` counts the messages that are not for it.
    pub(super) fn hear(
        &mut self,
        event: MqttEvent,
        post: &Post,
        refused: &mut u64,
    ) -> Option<Input> {
        match event {
            MqttEvent::Connected { session_present: _ } => {
                let channel = self.channel.as_ref().map(|channel| channel.as_str());
                tracing::info!(channel, "connected to the broker");
                self.connected = true;
                self.error = None;
                Some(Input::Connected(self.channel.clone()))
            }
            MqttEvent::Disconnected { reason, retry_ms } => {
                // A broker that stays away is news once.
                if self.connected || self.error.is_none() {
                    tracing::warn!(reason, retry_ms, "no connection to the broker");
                } else {
                    tracing::debug!(reason, retry_ms, "still no connection to the broker");
                }
                self.error = Some(reason);
                std::mem::take(&mut self.connected).then_some(Input::Disconnected)
            }
            MqttEvent::Message {
                topic,
                payload,
                retain,
            } => {
                self.inbox.taken();
                let dropped = self.inbox.dropped();
                if dropped > 0 {
                    tracing::warn!(dropped, "messages came faster than they could be taken");
                }
                open(&topic, &payload, retain, post, refused)
            }
            MqttEvent::PublishRefused { reason } => {
                tracing::warn!(
                    reason,
                    "the broker refused a message; check its access control"
                );
                None
            }
            MqttEvent::SubscribeRefused { topic, reason } => {
                tracing::warn!(
                    topic,
                    reason,
                    "the broker refused a subscription; check its access control"
                );
                None
            }
            MqttEvent::Acked { .. } | MqttEvent::Closed { .. } => None,
        }
    }

    /// Says goodbye; `Closed` comes within that time.
    pub(super) fn leave(&self, within_ms: u64) {
        self.publisher.disconnect(within_ms);
    }
}

fn open(
    topic: &str,
    payload: &[u8],
    retain: bool,
    post: &Post,
    refused: &mut u64,
) -> Option<Input> {
    // How a retained message is cleared: it says nothing.
    if payload.is_empty() && retain {
        return None;
    }
    match post.open(topic, payload) {
        Ok(input) => {
            tracing::debug!(topic, octets = payload.len(), retain, "received");
            Some(input)
        }
        Err(error) => {
            *refused = refused.saturating_add(1);
            if *refused <= REFUSED_TOLD || refused.is_power_of_two() {
                let topic: String = topic.chars().take(200).collect();
                tracing::warn!(topic, octets = payload.len(), %error, refused, "message was refused");
            }
            None
        }
    }
}

fn will(post: &Post, agent: &Agent) -> Option<Will> {
    let status = agent.will(agent.next_connection());
    match post.seal(Up::Status, &status) {
        Ok((topic, payload)) => Some(Will {
            topic,
            payload,
            retain: true,
        }),
        Err(error) => {
            tracing::error!(%error, "the last will was not sealed");
            None
        }
    }
}

/// What logs call a message, on both sides.
fn named(up: Up, payload: &[u8]) -> Option<String> {
    let up = match up {
        Up::Credit => simquota_shared::topic::Up::Credit,
        Up::Usage => simquota_shared::topic::Up::Usage,
        Up::Status | Up::Register | Up::Ack => return None,
    };
    simquota_shared::trace::of(up, payload)
}
