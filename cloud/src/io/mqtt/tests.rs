#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::sync::mpsc::{Receiver, channel};

use tokio::runtime::Runtime;

use super::*;
use crate::io::peer::{LIMIT, Peer, broker};

const LIMIT_MS: u64 = 30_000;

struct Client {
    line: Line,
    events: Receiver<MqttEvent>,
    _runtime: Runtime,
}

fn options(port: u16) -> Options {
    Options {
        client_id: "simquota-cloud-1-usage".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        credentials: Some(("cloud".to_owned(), "secret-word".to_owned())),
        keep_alive_s: 30,
        will: Some(Will {
            topic: "ops/node".to_owned(),
            payload: b"lost".to_vec(),
        }),
        subscriptions: vec!["d/+/up/usage".to_owned()],
        looks_on: false,
        inflight: 100,
        receive_max: 100,
        session_expiry_s: 3600,
    }
}

/// A client that breaks the connection off when a message says so.
fn client(options: Options) -> Client {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (tx, events) = channel();
    let line = connect(runtime.handle(), options, move |event| {
        let breaks = matches!(&event, MqttEvent::Message(m) if m.payload() == b"too many");
        let _ = tx.send(event);
        if breaks { Flow::BreakOff } else { Flow::Go }
    })
    .unwrap();
    Client {
        line,
        events,
        _runtime: runtime,
    }
}

impl Client {
    fn next(&self) -> MqttEvent {
        self.events.recv_timeout(LIMIT).expect("an event in time")
    }

    fn connected(&self) -> u64 {
        loop {
            match self.next() {
                MqttEvent::Connected { generation, .. } => return generation,
                MqttEvent::Disconnected { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn message(&self) -> Delivery {
        match self.next() {
            MqttEvent::Message(delivery) => delivery,
            other => panic!("{other:?}"),
        }
    }

    fn acknowledge(&self, delivery: &Delivery) {
        self.line
            .acknowledge(delivery, Deadline::within_ms(LIMIT_MS));
    }
}

#[test]
fn nothing_is_acknowledged_by_itself_and_acknowledgements_keep_their_order() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    let connect = peer.greet(&[1]);
    assert_eq!(connect[7] & 0x02, 0, "the session is kept: no clean start");
    client.connected();
    for id in 1..=3 {
        peer.deliver("t", id, &[id]);
    }
    let deliveries = [client.message(), client.message(), client.message()];
    assert_eq!(deliveries[0].topic(), Some("t"));
    assert!(deliveries[0].comes_again());
    // Had the library acknowledged anything by itself, that would come before this.
    client
        .line
        .publish("t", b"x".to_vec(), false, Deadline::within_ms(LIMIT_MS))
        .unwrap();
    assert_eq!(peer.published().payload, b"x");
    for delivery in &deliveries {
        client.acknowledge(delivery);
    }
    assert_eq!([(); 3].map(|()| peer.acknowledged()), [1, 2, 3]);
}

#[test]
fn an_acknowledgement_of_an_earlier_connections_delivery_is_dropped() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(&[1]);
    let first = client.connected();
    peer.deliver("t", 1, b"a");
    let stale = client.message();
    drop(peer);
    let mut peer = Peer::accept(&listener);
    peer.greet(&[1]);
    assert!(client.connected() > first);
    client.acknowledge(&stale);
    peer.deliver("t", 2, b"a");
    client.acknowledge(&client.message());
    assert_eq!(peer.acknowledged(), 2, "only the new delivery");
}

#[test]
fn into_a_session_that_the_broker_kept_everything_is_subscribed_and_sent_as_into_a_new_one() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    // CONNACK with "session present": SUBSCRIBE comes first all the same.
    peer.greet_with(&[0x20, 3, 1, 0, 0], &[1]);
    client.connected();
    let sent = client
        .line
        .publish("t", b"x".to_vec(), false, Deadline::within_ms(LIMIT_MS));
    assert_eq!(sent, Ok(()));
    assert_eq!(peer.published().payload, b"x");
}

#[test]
fn more_messages_than_there_is_room_for_end_the_connection() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(&[1]);
    client.connected();
    peer.deliver("t", 1, b"too many");
    client.message();
    assert_eq!(peer.read(), None, "unacknowledged, so it comes again");
    Peer::accept(&listener).greet(&[1]);
    client.connected();
}

#[test]
fn of_two_messages_under_one_packet_id_both_are_taken_and_one_is_acknowledged() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(&[1]);
    client.connected();
    for (id, text) in [(7, b"a"), (7, b"b"), (8, b"c")] {
        peer.deliver("t", id, text);
    }
    let deliveries = [client.message(), client.message(), client.message()];
    assert_eq!(deliveries[1].payload(), b"b");
    for delivery in &deliveries {
        client.acknowledge(delivery);
    }
    assert_eq!([(); 2].map(|()| peer.acknowledged()), [7, 8]);
    // Once it is acknowledged, the id is free.
    peer.deliver("t", 7, b"d");
    client.acknowledge(&client.message());
    assert_eq!(peer.acknowledged(), 7);
}

#[test]
fn a_session_whose_window_is_spent_on_ids_used_twice_begins_anew() {
    const CLEAN_START: u8 = 0x02;
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(&[1]);
    client.connected();
    // A quarter of the window of 100, and one more.
    for _ in 0..27 {
        peer.deliver("t", 7, b"a");
    }
    assert_eq!(peer.read(), None, "the connection is ended");
    let connect = Peer::accept(&listener).greet(&[1]);
    assert_eq!(connect[7] & CLEAN_START, CLEAN_START);
    // And the one after it is resumed again.
    let connect = Peer::accept(&listener).greet(&[1]);
    assert_eq!(connect[7] & CLEAN_START, 0);
}

#[test]
fn a_full_window_delays_and_the_deadline_ends_the_wait() {
    let (listener, port) = broker();
    let client = client(Options {
        inflight: 1,
        ..options(port)
    });
    let mut peer = Peer::accept(&listener);
    peer.greet(&[1]);
    client.connected();
    let publish = |ms| {
        client
            .line
            .publish("t", vec![1], false, Deadline::within_ms(ms))
    };
    // One on its way, the queue behind it full: the next finds no place.
    let mut accepted = 0;
    while publish(100).is_ok() {
        accepted += 1;
        assert!(accepted <= 2 * QUEUE, "the queue is bounded");
    }
    assert_eq!(publish(0), Err(SendError::Full));
    // The poll task is alive all the same, and an acknowledgement makes room for one that waits.
    let first = peer.published();
    let waiting = {
        let line = client.line.clone();
        std::thread::spawn(move || line.publish("t", vec![2], false, Deadline::within_ms(LIMIT_MS)))
    };
    peer.ack(&first);
    assert_eq!(waiting.join().unwrap(), Ok(()));
}

#[test]
fn offline_waits_for_a_connection_until_the_deadline() {
    let (listener, port) = broker();
    let client = client(options(port));
    let line = client.line.clone();
    assert_eq!(
        line.publish("t", vec![1], false, Deadline::within_ms(0)),
        Err(SendError::Offline)
    );
    let waiting = std::thread::spawn(move || {
        line.publish("t", vec![1], false, Deadline::within_ms(LIMIT_MS))
    });
    let mut peer = Peer::accept(&listener);
    peer.greet(&[1]);
    assert_eq!(waiting.join().unwrap(), Ok(()));
    assert_eq!(peer.published().payload, [1]);
    let large = vec![0; PACKET_OCTETS_MAX as usize];
    let error = client
        .line
        .publish("t", large, false, Deadline::within_ms(LIMIT_MS));
    assert!(
        matches!(error, Err(SendError::TooLarge { .. })),
        "{error:?}"
    );
}

#[test]
fn goodbye_sends_what_is_queued_and_no_will_follows() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(&[1]);
    client.connected();
    for number in 0..20 {
        let deadline = Deadline::within_ms(LIMIT_MS);
        client
            .line
            .publish("t", vec![number], false, deadline)
            .unwrap();
    }
    client.line.disconnect();
    for number in 0..20 {
        let published = peer.published();
        assert_eq!(published.payload, [number]);
        peer.ack(&published);
    }
    assert_eq!(peer.read().map(|(kind, _)| kind), Some(0xe0), "DISCONNECT");
    assert!(matches!(client.next(), MqttEvent::Closed));
}

#[test]
fn a_refused_subscription_is_named() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(&[0x87]);
    client.connected();
    match client.next() {
        MqttEvent::SubscribeRefused { filter, reason } => {
            assert_eq!(filter, "d/+/up/usage");
            assert_eq!(reason, "NotAuthorized");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn options_that_cannot_work_are_refused_with_what_to_do() {
    let base = options(1);
    let texts = [
        Options {
            client_id: "a b".to_owned(),
            ..base.clone()
        },
        Options {
            host: String::new(),
            ..base.clone()
        },
        Options {
            keep_alive_s: 4,
            ..base.clone()
        },
        Options {
            inflight: 0,
            ..base.clone()
        },
    ]
    .map(|options| check(&options).unwrap_err().to_string());
    insta::assert_snapshot!(texts.join("\n"));
    assert!(!format!("{base:?}").contains("secret-word"));
}
