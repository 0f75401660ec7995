//! The task that owns the client library's event loop.
//!
//! Each connection gets an event loop of its own. What the library carries over from one connection to the next is
//! what goes wrong with it: packets that it drops silently when the broker has no session, a collision that is
//! never cleared, acknowledgements of deliveries that the broker has forgotten. With a new loop nothing is carried
//! over: the broker delivers again what was not acknowledged, and devices ask again for what did not reach them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rumqttc::Error as PacketError;
use rumqttc::{
    AckMode, AsyncClient, Broker, ConnAck, ConnectionError, Event, EventLoop, LastWill,
    MqttOptions, Outgoing, Packet, PubAckReason, QoS, StateError, SubAck, SubscribeFilter,
    SubscribeReasonCode, default_socket_connect,
};
use tokio::select;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::owed::Owed;
use super::resume;
use super::{
    Delivery, Established, Flow, MqttEvent, Options, PACKET_OCTETS_MAX, QUEUE, Shared, Wish, lock,
};
use crate::io::clock;
use crate::io::tls::{Handshake, words};

/// For name, TCP, CONNECT and CONNACK together.
const CONNECT_WITHIN_S: u64 = 10;
/// For what is queued to be sent, its acknowledgements to come, and DISCONNECT to be written.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// How a connection ended.
enum End {
    /// It broke; how long it had been established, 0 if it never was.
    Broken { reason: String, lasted_ms: u64 },
    /// The broker's session can't be used any more: the next one begins anew.
    Spoilt { reason: String },
    /// As it was asked to, or nobody wants it any more.
    Over,
}

pub(super) struct Session {
    options: Options,
    /// Kept over connections, so that a session of TLS can be resumed.
    tls: Option<Handshake>,
    shared: Arc<Shared>,
    wishes: watch::Receiver<Wish>,
    on_event: Box<dyn FnMut(MqttEvent) -> Flow + Send>,
    generation: u64,
    established_ms: Option<u64>,
    /// The broker accepted and SUBSCRIBE is not written yet: the library queues it apart from what is published, so the
    /// line begins when it is out. What comes in meanwhile waits.
    greeting: Option<(ConnAck, Vec<Event>)>,
    /// Publishes of this connection that were accepted and not acknowledged by the broker.
    outstanding: Arc<AtomicU64>,
    /// Acknowledgements of this connection's deliveries.
    owed: Owed,
}

impl Session {
    pub(super) fn new(
        options: Options,
        shared: Arc<Shared>,
        wishes: watch::Receiver<Wish>,
        on_event: Box<dyn FnMut(MqttEvent) -> Flow + Send>,
    ) -> Self {
        Self {
            tls: options.tls.clone().map(Handshake::new),
            owed: Owed::new(options.receive_max),
            options,
            shared,
            wishes,
            on_event,
            generation: 0,
            established_ms: None,
            greeting: None,
            outstanding: Arc::default(),
        }
    }

    /// Connects again and again until it is asked to leave.
    pub(super) async fn run(mut self, mut backoff: Backoff) {
        let mut anew = false;
        loop {
            self.generation = self.generation.saturating_add(1);
            self.established_ms = None;
            self.greeting = None;
            self.outstanding = Arc::default();
            self.owed = Owed::new(self.options.receive_max);
            let library = library_options(&self.options, self.tls.as_ref(), anew);
            let (client, mut events) = AsyncClient::builder(library).capacity(QUEUE).build();
            let end = self.connection(client, &mut events).await;
            // The line goes before its loop: nothing is accepted that nobody will send.
            self.establish(None);
            drop(events);
            // An attempt that did not get through leaves the broker's session as it is.
            anew = matches!(end, End::Spoilt { .. }) || (anew && self.established_ms.is_none());
            let (reason, retry_ms) = match end {
                End::Broken { reason, lasted_ms } => (reason, backoff.wait_ms(lasted_ms)),
                // What the next one meets is not what this one met.
                End::Spoilt { reason } => (reason, backoff.shortest_ms()),
                End::Over => {
                    (self.on_event)(MqttEvent::Closed);
                    return;
                }
            };
            (self.on_event)(MqttEvent::Disconnected { reason, retry_ms });
            select! {
                () = sleep(Duration::from_millis(retry_ms)) => {}
                () = over(&mut self.wishes) => {
                    (self.on_event)(MqttEvent::Closed);
                    return;
                }
            }
        }
    }

    async fn connection(&mut self, client: AsyncClient, events: &mut EventLoop) -> End {
        loop {
            let polled = {
                // Not cancel-safe: the future is only dropped with the connection.
                let mut poll = pin!(events.poll());
                select! {
                    biased;
                    parting = parting(&mut self.wishes, self.generation) => Err(parting),
                    polled = &mut poll => Ok(polled),
                }
            };
            match polled {
                Ok(Ok(event)) => {
                    if self.happened(&client, events, event) == Flow::BreakOff {
                        return self.broken("more messages came than were asked for".to_owned());
                    }
                    if self.owed.is_spent() {
                        let reason =
                            "the broker used packet ids twice at a time, which MQTT forbids";
                        return End::Spoilt {
                            reason: reason.to_owned(),
                        };
                    }
                }
                Ok(Err(error)) => {
                    // What was read before the error in the same batch is thrown away with it: it was not acknowledged.
                    return self.broken(reason(&error, &self.options.host));
                }
                Err(Wish::BreakOff(_) | Wish::Run) => {
                    return self.broken("ended on our side".to_owned());
                }
                Err(Wish::Leave) => {
                    if self.established_ms.is_some() {
                        self.say_goodbye(client, events).await;
                    }
                    return End::Over;
                }
            }
        }
    }

    fn broken(&self, reason: String) -> End {
        let lasted_ms = self
            .established_ms
            .map_or(0, |since| clock::monotonic_ms().saturating_sub(since));
        End::Broken { reason, lasted_ms }
    }

    fn happened(&mut self, client: &AsyncClient, events: &mut EventLoop, event: Event) -> Flow {
        if let Event::Incoming(Packet::ConnAck(answer)) = event {
            return self.accepted(client, events, answer);
        }
        let subscribed = matches!(event, Event::Outgoing(Outgoing::Subscribe(_)));
        match self.greeting.take() {
            Some((answer, held)) if subscribed => self.connected(client, &answer, held),
            Some((answer, mut held)) => {
                held.push(event);
                self.greeting = Some((answer, held));
                Flow::Go
            }
            None => self.deliver(event),
        }
    }

    fn accepted(&mut self, client: &AsyncClient, events: &mut EventLoop, answer: ConnAck) -> Flow {
        self.established_ms = Some(clock::monotonic_ms());
        resume::forget(&mut events.options);
        // "No keep-alive" from the broker would make the library ping without a pause.
        if events.options.keep_alive().is_zero() {
            events.options.set_keep_alive(self.options.keep_alive_s);
        }
        let qos = match self.options.looks_on {
            true => QoS::AtMostOnce,
            false => QoS::AtLeastOnce,
        };
        let filters = self
            .options
            .subscriptions
            .iter()
            .map(|filter| SubscribeFilter::new(filter.clone(), qos));
        // Before anything is published: answers to that can't be missed.
        if self.options.subscriptions.is_empty() {
            return self.connected(client, &answer, Vec::new());
        }
        if client.try_subscribe_many(filters).is_ok() {
            self.greeting = Some((answer, Vec::new()));
            return Flow::Go;
        }
        tracing::error!("subscriptions were not accepted by the client library: report this");
        Flow::BreakOff
    }

    fn connected(&mut self, client: &AsyncClient, answer: &ConnAck, held: Vec<Event>) -> Flow {
        let limit = answer.properties.as_ref().and_then(|p| p.max_packet_size);
        self.establish(Some(Established {
            generation: self.generation,
            client: client.clone(),
            packet_octets_max: limit.unwrap_or(PACKET_OCTETS_MAX).min(PACKET_OCTETS_MAX),
            outstanding: Arc::clone(&self.outstanding),
        }));
        let mut flow = (self.on_event)(MqttEvent::Connected {
            generation: self.generation,
            session_present: answer.session_present,
        });
        for event in held {
            if self.deliver(event) == Flow::BreakOff {
                flow = Flow::BreakOff;
            }
        }
        flow
    }

    fn establish(&self, established: Option<Established>) {
        *lock(&self.shared.established) = established;
        self.shared.changed.notify_all();
    }

    fn deliver(&mut self, event: Event) -> Flow {
        match event {
            Event::Incoming(Packet::Publish(publish)) => {
                let owed = publish.qos == QoS::AtLeastOnce && self.owed.came(publish.pkid);
                (self.on_event)(MqttEvent::Message(Delivery {
                    generation: self.generation,
                    arrived_ns: clock::monotonic_ns(),
                    owed,
                    publish,
                }))
            }
            Event::Outgoing(Outgoing::PubAck(id)) => {
                self.owed.paid(id);
                Flow::Go
            }
            Event::Incoming(Packet::PubAck(answer)) => {
                // The library ends the connection over an acknowledgement that nothing waits for.
                self.outstanding.fetch_sub(1, Ordering::AcqRel);
                match answer.reason {
                    PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Flow::Go,
                    refusal => (self.on_event)(MqttEvent::PublishRefused {
                        reason: format!("{refusal:?}"),
                    }),
                }
            }
            Event::Incoming(Packet::SubAck(answer)) => self.subscribed(&answer),
            Event::Incoming(_) | Event::Outgoing(_) | Event::Auth(_) => Flow::Go,
        }
    }

    fn subscribed(&mut self, answer: &SubAck) -> Flow {
        let filters = self.options.subscriptions.clone();
        for (filter, code) in filters.into_iter().zip(&answer.return_codes) {
            if !matches!(code, SubscribeReasonCode::Success(_)) {
                (self.on_event)(MqttEvent::SubscribeRefused {
                    filter,
                    reason: format!("{code:?}"),
                });
            }
        }
        Flow::Go
    }

    /// Sends what is queued, awaits its acknowledgements, and writes DISCONNECT.
    async fn say_goodbye(&mut self, client: AsyncClient, events: &mut EventLoop) {
        // From here on nothing is accepted, so DISCONNECT is the last in the queue, behind acknowledgements.
        self.establish(None);
        let mut asked = false;
        let gone = async {
            loop {
                if !asked && self.outstanding.load(Ordering::Acquire) == 0 {
                    asked = client.try_disconnect().is_ok();
                }
                match events.poll().await {
                    // Polled once more, the library would connect again.
                    Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_) => return,
                    Ok(Event::Incoming(Packet::Publish(_))) => {}
                    Ok(event) => drop(self.deliver(event)),
                }
            }
        };
        if timeout(GOODBYE_WITHIN, gone).await.is_err() {
            tracing::warn!("the broker did not take our last words in time");
        }
    }
}

/// Waits until the connection of this generation is not wanted any more, and says how it is to end.
async fn parting(wishes: &mut watch::Receiver<Wish>, generation: u64) -> Wish {
    let parts = |wish: &Wish| *wish == Wish::Leave || *wish == Wish::BreakOff(generation);
    match wishes.wait_for(parts).await {
        Ok(wish) => *wish,
        // Every line was dropped without a goodbye: as by a crash. `over` ends the session.
        Err(_) => Wish::Run,
    }
}

/// Waits until no connection is wanted any more.
async fn over(wishes: &mut watch::Receiver<Wish>) {
    // An error says that every line was dropped: that is an end too.
    drop(wishes.wait_for(|wish| *wish == Wish::Leave).await);
}

/// `anew` asks the broker to forget the session that it has.
fn library_options(options: &Options, tls: Option<&Handshake>, anew: bool) -> MqttOptions {
    // An IPv6 address must stand in brackets before the port.
    let host = if options.host.contains(':') && !options.host.starts_with('[') {
        format!("[{}]", options.host)
    } else {
        options.host.clone()
    };
    let mut library = MqttOptions::new(&options.client_id, Broker::tcp(host, options.port));
    library
        .set_keep_alive(options.keep_alive_s)
        .set_clean_start(anew || options.session_expiry_s == 0)
        .set_session_expiry_interval(Some(options.session_expiry_s))
        .set_ack_mode(AckMode::Manual)
        .set_receive_maximum(Some(options.receive_max))
        .set_max_packet_size(Some(PACKET_OCTETS_MAX))
        // The library keeps a slot for each place of the window: its default takes 14.5 MiB.
        .set_outgoing_inflight_upper_limit(options.inflight)
        .set_connect_timeout(Duration::from_secs(CONNECT_WITHIN_S));
    if let Some((user, password)) = &options.credentials {
        library.set_credentials(user.clone(), password.clone());
    }
    if let Some(will) = &options.will {
        let (topic, payload) = (will.topic.clone(), will.payload.clone());
        library.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, true, None));
    }
    let mut network = library.network_options();
    // Without it a small packet waits for the acknowledgement of the one before: 88 ms a round trip.
    network.set_tcp_nodelay(true);
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
