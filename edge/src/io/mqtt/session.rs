//! The task that owns the client library's event loop.
//!
//! Each connection gets an event loop of its own. What the library carries over from one connection to the
//! next is what goes wrong with it: packets that it drops silently when the broker has no session, a
//! collision that is never cleared, packet ids beyond a window that became smaller. With a new loop
//! nothing is carried over, and the agent resends from its store.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::Error as PacketError;
use rumqttc::{
    AsyncClient, Broker, ConnAck, ConnectionError, Event, EventLoop, LastWill, MqttOptions,
    Outgoing, Packet, PubAck, PubAckReason, Publish, PublishOptions, QoS, StateError, SubAck,
    SubscribeFilter, SubscribeReasonCode, default_socket_connect,
};
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::resume;
use super::{
    MqttEvent, Options, PACKET_OCTETS_MAX, PUBLISH_OVERHEAD_OCTETS, PublishError, QUEUE, Shared,
    Wish, lock,
};
use crate::io::clock;
use crate::io::tls::{Handshake, words};

/// For name, TCP, CONNECT and CONNACK together.
const CONNECT_WITHIN_S: u64 = 10;
/// For DISCONNECT to be written.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// Messages that the broker may have under way to us.
const RECEIVE_MAX: u16 = 100;

/// The sending side of one established connection.
pub(super) struct Line {
    client: AsyncClient,
    packet_octets_max: u32,
    /// Publishes accepted and not acknowledged.
    pub(super) outstanding: u32,
}

impl Line {
    pub(super) fn publish(
        &mut self,
        topic: &str,
        payload: Vec<u8>,
        retain: bool,
        inflight: u32,
    ) -> Result<(), PublishError> {
        let octets = payload.len() + topic.len() + PUBLISH_OVERHEAD_OCTETS;
        if u32::try_from(octets).is_ok_and(|octets| octets <= self.packet_octets_max) {
            if self.outstanding >= inflight {
                return Err(PublishError::Full);
            }
            self.client
                .try_publish(
                    topic,
                    payload,
                    PublishOptions::at_least_once().retain(retain),
                )
                // The topic was checked and the loop lives as long as this line: the queue is full.
                .map_err(|_| PublishError::Full)?;
            self.outstanding += 1;
            Ok(())
        } else {
            Err(PublishError::TooLarge {
                octets,
                octets_max: self.packet_octets_max,
            })
        }
    }
}

/// How a connection ended.
enum End {
    /// It broke; how long it had been established, 0 if it never was.
    Broken { reason: String, lasted_ms: u64 },
    /// As it was asked to.
    Left { flushed: bool },
    /// The publisher was dropped.
    Abandoned,
}

/// Why there is no next event to wait for.
enum Parting {
    /// Everything is acknowledged, or the time for it is over.
    Leave,
    /// The publisher was dropped.
    Abandon,
}

pub(super) struct Session {
    options: Options,
    /// Kept over connections, so that a session of TLS can be resumed.
    tls: Option<Handshake>,
    shared: Arc<Mutex<Shared>>,
    wishes: watch::Receiver<Wish>,
    on_event: Box<dyn FnMut(MqttEvent) + Send>,
    /// When to leave at the latest, once leaving was asked for.
    leave_at: Option<Instant>,
    established_ms: Option<u64>,
    /// The broker accepted and SUBSCRIBE is not written yet: the library queues it apart from what is published, so the
    /// line begins when it is out. What comes in meanwhile waits.
    greeting: Option<(ConnAck, Vec<Event>)>,
}

impl Session {
    pub(super) fn new(
        options: Options,
        shared: Arc<Mutex<Shared>>,
        wishes: watch::Receiver<Wish>,
        on_event: Box<dyn FnMut(MqttEvent) + Send>,
    ) -> Session {
        Session {
            tls: options.tls.clone().map(Handshake::new),
            options,
            shared,
            wishes,
            on_event,
            leave_at: None,
            established_ms: None,
            greeting: None,
        }
    }

    /// Connects again and again until it is asked to leave.
    pub(super) async fn run(mut self, mut backoff: Backoff) {
        loop {
            self.options.will = lock(&self.shared).will.clone();
            let library = library_options(&self.options, self.tls.as_ref());
            let (client, mut events) = AsyncClient::builder(library).capacity(QUEUE).build();
            self.established_ms = None;
            self.greeting = None;
            let end = self.connection(&client, &mut events).await;
            // The line goes before its loop: nothing is accepted that nobody will send.
            lock(&self.shared).line = None;
            drop(events);
            match end {
                End::Broken { reason, lasted_ms } => {
                    let retry_ms = backoff.wait_ms(lasted_ms);
                    (self.on_event)(MqttEvent::Disconnected { reason, retry_ms });
                    select! {
                        () = sleep(Duration::from_millis(retry_ms)) => {}
                        wish = asked(&mut self.wishes) => {
                            if wish.is_some() {
                                (self.on_event)(MqttEvent::Closed { flushed: false });
                            }
                            return;
                        }
                    }
                }
                End::Left { flushed } => {
                    (self.on_event)(MqttEvent::Closed { flushed });
                    return;
                }
                End::Abandoned => return,
            }
        }
    }

    async fn connection(&mut self, client: &AsyncClient, events: &mut EventLoop) -> End {
        loop {
            match self.turn(events).await {
                Ok(Ok(event)) => self.happened(client, events, event),
                Ok(Err(error)) => {
                    if self.leave_at.is_some() {
                        return End::Left { flushed: false };
                    }
                    let lasted_ms = self
                        .established_ms
                        .map_or(0, |since| clock::monotonic_ms().saturating_sub(since));
                    return End::Broken {
                        reason: reason(&error, &self.options.host),
                        lasted_ms,
                    };
                }
                Err(Parting::Leave) => {
                    let established = self.established_ms.is_some();
                    let flushed = established && self.outstanding() == 0;
                    let said = established && self.say_goodbye(client, events).await;
                    return End::Left {
                        flushed: flushed && said,
                    };
                }
                Err(Parting::Abandon) => return End::Abandoned,
            }
        }
    }

    /// Waits for the next event. The loop's future may not be dropped half-way while the connection is
    /// still wanted (it is not cancel-safe), so the wish to leave is heard beside it.
    async fn turn(
        &mut self,
        events: &mut EventLoop,
    ) -> Result<Result<Event, ConnectionError>, Parting> {
        if self.leave_at.is_some() && self.outstanding() == 0 {
            return Err(Parting::Leave);
        }
        let mut poll = pin!(events.poll());
        loop {
            let leave_at = self.leave_at;
            select! {
                // The wish comes first: a stream of messages that never pauses must not drown it.
                biased;
                wish = asked(&mut self.wishes), if leave_at.is_none() => {
                    let within_ms = wish.ok_or(Parting::Abandon)?;
                    self.leave_at = Some(Instant::now() + Duration::from_millis(within_ms));
                    if self.outstanding() == 0 {
                        return Err(Parting::Leave);
                    }
                }
                () = sleep_until(leave_at.unwrap_or_else(Instant::now)), if leave_at.is_some() => {
                    return Err(Parting::Leave);
                }
                polled = &mut poll => return Ok(polled),
            }
        }
    }

    fn happened(&mut self, client: &AsyncClient, events: &mut EventLoop, event: Event) {
        if let Event::Incoming(Packet::ConnAck(answer)) = event {
            self.accepted(client, events, answer);
            return;
        }
        let subscribed = matches!(event, Event::Outgoing(Outgoing::Subscribe(_)));
        match self.greeting.take() {
            Some((answer, held)) if subscribed => self.connected(client, &answer, held),
            Some((answer, mut held)) => {
                held.push(event);
                self.greeting = Some((answer, held));
            }
            None => self.deliver(event),
        }
    }

    fn accepted(&mut self, client: &AsyncClient, events: &mut EventLoop, answer: ConnAck) {
        self.established_ms = Some(clock::monotonic_ms());
        resume::forget(&mut events.options);
        // "No keep-alive" from the broker would make the library ping without a pause.
        if events.options.keep_alive().is_zero() {
            events.options.set_keep_alive(self.options.keep_alive_s);
        }
        let filters = self
            .options
            .subscriptions
            .iter()
            .map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
        // Before anything is published: answers to that can't be missed.
        if self.options.subscriptions.is_empty() {
            self.connected(client, &answer, Vec::new());
        } else if client.try_subscribe_many(filters).is_ok() {
            self.greeting = Some((answer, Vec::new()));
        } else {
            tracing::error!("subscriptions were not accepted by the client library");
        }
    }

    fn connected(&mut self, client: &AsyncClient, answer: &ConnAck, held: Vec<Event>) {
        let limit = answer.properties.as_ref().and_then(|p| p.max_packet_size);
        lock(&self.shared).line = Some(Line {
            client: client.clone(),
            packet_octets_max: limit.unwrap_or(PACKET_OCTETS_MAX).min(PACKET_OCTETS_MAX),
            outstanding: 0,
        });
        (self.on_event)(MqttEvent::Connected {
            session_present: answer.session_present,
        });
        for event in held {
            self.deliver(event);
        }
    }

    fn deliver(&mut self, event: Event) {
        match event {
            Event::Incoming(Packet::Publish(publish)) => self.message(publish),
            Event::Incoming(Packet::PubAck(answer)) => self.acknowledged(&answer),
            Event::Incoming(Packet::SubAck(answer)) => self.subscribed(&answer),
            Event::Incoming(_) | Event::Outgoing(_) | Event::Auth(_) => {}
        }
    }

    fn message(&mut self, publish: Publish) {
        match String::from_utf8(publish.topic.to_vec()) {
            Ok(topic) => (self.on_event)(MqttEvent::Message {
                topic,
                payload: publish.payload.to_vec(),
                retain: publish.retain,
            }),
            Err(_) => tracing::warn!("message dropped, its topic is not UTF-8"),
        }
    }

    fn acknowledged(&mut self, answer: &PubAck) {
        if let Some(line) = &mut lock(&self.shared).line {
            // The library ends the connection over an acknowledgement that nothing waits for.
            line.outstanding = line.outstanding.saturating_sub(1);
        }
        (self.on_event)(MqttEvent::Acked { count: 1 });
        match answer.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => {}
            refusal => (self.on_event)(MqttEvent::PublishRefused {
                reason: format!("{refusal:?}"),
            }),
        }
    }

    fn subscribed(&mut self, answer: &SubAck) {
        let filters = self.options.subscriptions.clone();
        for (topic, code) in filters.into_iter().zip(&answer.return_codes) {
            if !matches!(code, SubscribeReasonCode::Success(_)) {
                (self.on_event)(MqttEvent::SubscribeRefused {
                    topic,
                    reason: format!("{code:?}"),
                });
            }
        }
    }

    fn outstanding(&self) -> u32 {
        lock(&self.shared)
            .line
            .as_ref()
            .map_or(0, |line| line.outstanding)
    }

    /// Writes DISCONNECT ahead of anything that still waits; says whether it went out.
    async fn say_goodbye(&mut self, client: &AsyncClient, events: &mut EventLoop) -> bool {
        if client.try_disconnect_now().is_err() {
            return false;
        }
        let written = async {
            loop {
                match events.poll().await {
                    // Polled once more, the library would connect again.
                    Ok(Event::Outgoing(Outgoing::Disconnect)) => return true,
                    Ok(event) => self.deliver(event),
                    Err(_) => return false,
                }
            }
        };
        timeout(GOODBYE_WITHIN, written).await.unwrap_or(false)
    }
}

/// Waits for the wish to leave, and how long that may take; `None` when the publisher was dropped.
async fn asked(wishes: &mut watch::Receiver<Wish>) -> Option<u64> {
    let wish = wishes.wait_for(|wish| *wish != Wish::Run).await.ok()?;
    match *wish {
        Wish::Leave { within_ms } => Some(within_ms),
        Wish::Run => None,
    }
}

fn library_options(options: &Options, tls: Option<&Handshake>) -> MqttOptions {
    // An IPv6 address must stand in brackets before the port.
    let host = if options.host.contains(':') && !options.host.starts_with('[') {
        format!("[{}]", options.host)
    } else {
        options.host.clone()
    };
    let mut library = MqttOptions::new(&options.client_id, Broker::tcp(host, options.port));
    library
        .set_keep_alive(options.keep_alive_s)
        .set_clean_start(options.session_expiry_s == 0)
        .set_session_expiry_interval(Some(options.session_expiry_s))
        .set_receive_maximum(Some(RECEIVE_MAX))
        .set_max_packet_size(Some(PACKET_OCTETS_MAX))
        // The library keeps a slot for each place of the window: its default takes 14.5 MiB.
        .set_outgoing_inflight_upper_limit(options.inflight)
        // One packet at a time: what was read before an error in the same batch would be thrown away with it.
        .set_read_batch_size(1)
        .set_connect_timeout(Duration::from_secs(CONNECT_WITHIN_S));
    if options.username.is_some() || options.password.is_some() {
        library.set_credentials(
            options.username.clone().unwrap_or_default(),
            options.password.clone().unwrap_or_default(),
        );
    }
    if let Some(will) = &options.will {
        library.set_last_will(LastWill::new(
            will.topic.clone(),
            will.payload.clone(),
            QoS::AtLeastOnce,
            will.retain,
            None,
        ));
    }
    let mut network = library.network_options();
    // Without it a small packet waits for the acknowledgement of the one before: 88 ms a round trip.
    network.set_tcp_nodelay(true);
    if let Some(device) = &options.bind_device {
        network.set_bind_device(device);
    }
    library.set_network_options(network);
    resume::remember(&mut library, options.session_expiry_s);
    if let Some(tls) = tls.cloned() {
        let host = options.host.clone();
        library.set_socket_connector(move |address, network| {
            let (tls, host) = (tls.clone(), host.clone());
            async move {
                let tcp = default_socket_connect(address, network).await?;
                tls.shake(&host, tcp).await
            }
        });
    }
    library
}

fn reason(error: &ConnectionError, host: &str) -> String {
    match error {
        ConnectionError::Io(error)
        | ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)),
        ) => words(error, host).unwrap_or_else(|| error.to_string()),
        ConnectionError::Timeout(_) => format!("no answer within {CONNECT_WITHIN_S} s"),
        ConnectionError::ConnectionRefused(code) => format!("the broker refused: {code:?}"),
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            "the broker closed the connection".to_owned()
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            "the broker did not answer a ping".to_owned()
        }
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code,
            reason_string,
        }) => match reason_string {
            Some(text) => format!("the broker hung up: {reason_code:?} ({text})"),
            None => format!("the broker hung up: {reason_code:?}"),
        },
        other => other.to_string(),
    }
}
