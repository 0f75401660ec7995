#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

fn options(port: u16) -> Options {
    Options {
        client_id: "tracker-1".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        username: Some("tracker-1".to_owned()),
        password: Some("secret-word".to_owned()),
        keep_alive_s: 30,
        will: Some(Will {
            topic: "d/tracker-1/status".to_owned(),
            payload: b"offline".to_vec(),
            retain: true,
        }),
        subscriptions: vec!["d/tracker-1/down/#".to_owned(), "x".to_owned()],
        inflight: 4,
        session_expiry_s: 3600,
        bind_device: None,
    }
}

struct Client {
    publisher: Publisher,
    events: Receiver<MqttEvent>,
    _runtime: Runtime,
}

fn client(options: Options) -> Client {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (tx, events) = channel();
    let publisher = connect(
        runtime.handle(),
        options,
        || 0,
        move |event| {
            let _ = tx.send(event);
        },
    )
    .unwrap();
    Client {
        publisher,
        events,
        _runtime: runtime,
    }
}

impl Client {
    fn next(&self) -> MqttEvent {
        self.events.recv_timeout(LIMIT).expect("an event in time")
    }

    fn publish(&self, payload: &[u8]) -> Result<(), PublishError> {
        self.publisher.try_publish("t", payload.to_vec(), false)
    }
}

/// The broker's end of a connection, spoken by hand.
struct Peer(TcpStream);

const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];
const SUBACK_CODES: usize = 2;

impl Peer {
    fn accept(listener: &TcpListener) -> Peer {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Peer(stream)
    }

    /// A packet's first octet and body; `None` at the end of the connection.
    fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut first = [0];
        self.0.read_exact(&mut first).ok()?;
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21] {
            let mut octet = [0];
            self.0.read_exact(&mut octet).ok()?;
            length |= usize::from(octet[0] & 0x7f) << shift;
            if octet[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        Some((first[0], body))
    }

    fn write(&mut self, octets: &[u8]) {
        self.0.write_all(octets).unwrap();
    }

    /// Takes CONNECT and SUBSCRIBE; returns the body of CONNECT.
    fn greet(&mut self, connack: &[u8], codes: [u8; SUBACK_CODES]) -> Vec<u8> {
        let (kind, connect) = self.read().unwrap();
        assert_eq!(kind, 0x10);
        self.write(connack);
        let (kind, body) = self.read().unwrap();
        assert_eq!(kind, 0x82, "SUBSCRIBE comes first");
        self.write(&[0x90, 5, body[0], body[1], 0, codes[0], codes[1]]);
        connect
    }

    /// Takes a PUBLISH to topic `t`; returns its packet id and payload.
    fn published(&mut self) -> ([u8; 2], Vec<u8>) {
        let (kind, body) = self.read().unwrap();
        assert_eq!(kind, 0x32, "QoS 1, not retained, not a repeat");
        assert_eq!(body[..3], [0, 1, b't']);
        assert_eq!(body[5], 0, "no properties");
        ([body[3], body[4]], body[6..].to_vec())
    }

    fn ack(&mut self, id: [u8; 2]) {
        self.write(&[0x40, 2, id[0], id[1]]);
    }
}

fn broker() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

#[test]
fn with_nothing_listening_each_attempt_is_told_and_the_wait_doubles() {
    let (listener, port) = broker();
    drop(listener);
    let client = client(options(port));
    for expected_ms in [100, 200, 400, 800] {
        let MqttEvent::Disconnected { reason, retry_ms } = client.next() else {
            panic!("nothing listens");
        };
        assert_eq!(retry_ms, expected_ms);
        assert!(reason.contains("refused"), "{reason}");
        assert_eq!(client.publish(b"x"), Err(PublishError::Offline));
    }
    client.publisher.disconnect(10_000);
    assert_eq!(client.publish(b"x"), Err(PublishError::Closed));
    // At once: what can't be connected has nothing to flush.
    let last = std::iter::from_fn(|| Some(client.next()))
        .find(|event| !matches!(event, MqttEvent::Disconnected { .. }));
    assert_eq!(last, Some(MqttEvent::Closed { flushed: false }));
}

#[test]
fn a_life_of_a_connection() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    let connect = peer.greet(CONNACK, [1, 0x87]);
    // Name, version 5, flags: user, password, will kept with QoS 1, no clean start; keep-alive 30 s.
    assert_eq!(
        connect[..10],
        [0, 4, b'M', b'Q', b'T', b'T', 5, 0xec, 0, 30]
    );
    for part in [
        &b"tracker-1"[..],
        b"d/tracker-1/status",
        b"offline",
        b"secret-word",
    ] {
        assert!(contains(&connect, part));
    }
    assert_eq!(
        client.next(),
        MqttEvent::Connected {
            session_present: false
        }
    );
    assert_eq!(
        client.next(),
        MqttEvent::SubscribeRefused {
            topic: "x".to_owned(),
            reason: "NotAuthorized".to_owned()
        }
    );

    // PUBLISH, QoS 1, kept, packet id 9, topic "d/a", payload "hi": told, and acknowledged.
    peer.write(&[0x33, 10, 0, 3, b'd', b'/', b'a', 0, 9, 0, b'h', b'i']);
    assert_eq!(
        client.next(),
        MqttEvent::Message {
            topic: "d/a".to_owned(),
            payload: b"hi".to_vec(),
            retain: true
        }
    );
    let (kind, body) = peer.read().unwrap();
    assert_eq!((kind, &body[..2]), (0x40, &[0, 9][..]));

    client.publish(b"one").unwrap();
    let (id, payload) = peer.published();
    assert_eq!(payload, b"one");
    assert_eq!(client.publisher.outstanding(), 1);
    peer.ack(id);
    assert_eq!(client.next(), MqttEvent::Acked { count: 1 });
    assert_eq!(client.publisher.outstanding(), 0);

    // "Not authorized" for a publish frees the window and is told.
    client.publish(b"two").unwrap();
    let (id, _) = peer.published();
    peer.write(&[0x40, 4, id[0], id[1], 0x87, 0]);
    assert_eq!(client.next(), MqttEvent::Acked { count: 1 });
    assert_eq!(
        client.next(),
        MqttEvent::PublishRefused {
            reason: "NotAuthorized".to_owned()
        }
    );
}

#[test]
fn after_a_break_it_subscribes_again_and_nothing_old_is_sent() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(CONNACK, [1, 1]);
    assert_eq!(
        client.next(),
        MqttEvent::Connected {
            session_present: false
        }
    );
    client.publish(b"old-1").unwrap();
    client.publish(b"old-2").unwrap();
    peer.published();
    drop(peer);
    assert!(matches!(client.next(), MqttEvent::Disconnected { .. }));
    assert_eq!(client.publisher.outstanding(), 0);

    // This time the broker still has the session; what is sent is decided by the agent all the same.
    let mut peer = Peer::accept(&listener);
    peer.greet(&[0x20, 3, 1, 0, 0], [1, 1]);
    assert_eq!(
        client.next(),
        MqttEvent::Connected {
            session_present: true
        }
    );
    client.publish(b"new").unwrap();
    assert_eq!(peer.published().1, b"new");
}

#[test]
fn a_will_that_was_set_is_the_one_of_the_next_connection() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    let connect = peer.greet(CONNACK, [1, 1]);
    assert!(contains(&connect, b"offline"));
    client.next();
    let will = |topic: &str| Will {
        topic: topic.to_owned(),
        payload: b"gone-2".to_vec(),
        retain: true,
    };
    let refused = client.publisher.set_will(will("a/#"));
    assert!(matches!(refused, Err(OptionsError::WillTopic(_))));
    client
        .publisher
        .set_will(will("d/tracker-1/status"))
        .unwrap();
    drop(peer);
    let mut peer = Peer::accept(&listener);
    let connect = peer.greet(CONNACK, [1, 1]);
    assert!(contains(&connect, b"gone-2") && !contains(&connect, b"offline"));
}

#[test]
fn the_window_and_the_packet_size_are_kept() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    // CONNACK with "maximum packet size" 100 (property 0x27).
    peer.greet(&[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 100], [1, 1]);
    assert_eq!(
        client.next(),
        MqttEvent::Connected {
            session_present: false
        }
    );
    assert_eq!(
        client.publish(&[0; 84]),
        Err(PublishError::TooLarge {
            octets: 101,
            octets_max: 100
        })
    );
    client.publish(&[0; 83]).unwrap();
    for _ in 0..3 {
        client.publish(b"x").unwrap();
    }
    assert_eq!(client.publish(b"x"), Err(PublishError::Full));
    let (id, _) = peer.published();
    peer.ack(id);
    assert_eq!(client.next(), MqttEvent::Acked { count: 1 });
    client.publish(b"x").unwrap();
    for topic in ["", "a/+", "#", "€/x"] {
        let refused = client.publisher.try_publish(topic, Vec::new(), false);
        assert_eq!(refused, Err(PublishError::Topic(topic.to_owned())));
    }
}

#[test]
fn a_goodbye_waits_for_what_is_under_way() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(CONNACK, [1, 1]);
    assert_eq!(
        client.next(),
        MqttEvent::Connected {
            session_present: false
        }
    );
    for payload in [b"1", b"2", b"3", b"4"] {
        client.publish(payload).unwrap();
    }
    client.publisher.disconnect(30_000);
    assert_eq!(client.publish(b"5"), Err(PublishError::Closed));
    for payload in [b"1", b"2", b"3", b"4"] {
        let (id, published) = peer.published();
        assert_eq!(published, payload);
        peer.ack(id);
        assert_eq!(client.next(), MqttEvent::Acked { count: 1 });
    }
    assert_eq!(peer.read().unwrap().0, 0xe0, "DISCONNECT");
    assert_eq!(client.next(), MqttEvent::Closed { flushed: true });
    assert_eq!(peer.read(), None, "the connection ends");
}

#[test]
fn a_goodbye_does_not_wait_for_ever_and_goes_out_though_the_window_is_full() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(CONNACK, [1, 1]);
    assert_eq!(
        client.next(),
        MqttEvent::Connected {
            session_present: false
        }
    );
    for _ in 0..4 {
        client.publish(b"x").unwrap();
        peer.published();
    }
    client.publisher.disconnect(50);
    assert_eq!(peer.read().unwrap().0, 0xe0, "DISCONNECT");
    assert_eq!(client.next(), MqttEvent::Closed { flushed: false });
}

#[test]
fn an_idle_goodbye_is_immediate() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(CONNACK, [1, 1]);
    assert_eq!(
        client.next(),
        MqttEvent::Connected {
            session_present: false
        }
    );
    client.publisher.disconnect(600_000);
    assert_eq!(peer.read().unwrap().0, 0xe0, "DISCONNECT");
    assert_eq!(client.next(), MqttEvent::Closed { flushed: true });
}

#[test]
fn a_dropped_publisher_vanishes_without_a_goodbye() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.greet(CONNACK, [1, 1]);
    assert_eq!(
        client.next(),
        MqttEvent::Connected {
            session_present: false
        }
    );
    drop(client.publisher);
    assert_eq!(peer.read(), None, "no DISCONNECT, so the will is published");
    assert!(
        client.events.recv_timeout(LIMIT).is_err(),
        "the task is gone"
    );
}

#[test]
fn a_refusing_broker_and_a_hangup_are_explained() {
    let (listener, port) = broker();
    let client = client(options(port));
    let mut peer = Peer::accept(&listener);
    peer.read().unwrap();
    peer.write(&[0x20, 3, 0, 0x87, 0]);
    let MqttEvent::Disconnected { reason, .. } = client.next() else {
        panic!("refused");
    };
    assert!(reason.contains("NotAuthorized"), "{reason}");
    let mut peer = Peer::accept(&listener);
    peer.greet(CONNACK, [1, 1]);
    assert_eq!(
        client.next(),
        MqttEvent::Connected {
            session_present: false
        }
    );
    // DISCONNECT, session taken over, just behind a message: both are told.
    peer.write(&[0x30, 5, 0, 1, b'a', 0, b'm', 0xe0, 2, 0x8e, 0]);
    assert!(matches!(client.next(), MqttEvent::Message { .. }));
    let MqttEvent::Disconnected { reason, retry_ms } = client.next() else {
        panic!("hung up");
    };
    assert!(reason.contains("SessionTakenOver"), "{reason}");
    // It connected, but not for long: the wait goes on growing.
    assert_eq!(retry_ms, 200);
}

#[test]
fn options_are_checked_before_anything_is_tried() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let refused = |change: fn(&mut Options)| {
        let mut options = options(1883);
        change(&mut options);
        connect(runtime.handle(), options, || 0, |_| {})
            .err()
            .unwrap()
            .to_string()
    };
    for (change, named) in [
        (
            (|o| o.client_id = "a/b".to_owned()) as fn(&mut Options),
            "a/b",
        ),
        (|o| o.client_id.clear(), "client id"),
        (|o| o.host.clear(), "host"),
        (|o| o.keep_alive_s = 4, "keep_alive_s = 4"),
        (|o| o.inflight = 0, "inflight = 0"),
        (|o| o.inflight = 1001, "inflight = 1001"),
        (|o| o.subscriptions = vec!["a/#/b".to_owned()], "a/#/b"),
        (|o| o.subscriptions = vec!["a+".to_owned()], "a+"),
        (|o| o.subscriptions = vec![String::new()], "filter"),
        (|o| o.will.as_mut().unwrap().topic = "a/#".to_owned(), "a/#"),
    ] {
        let error = refused(change);
        assert!(error.contains(named), "{error}");
    }
    let text = format!("{:?}", options(1));
    assert!(
        text.contains("tracker-1") && !text.contains("secret-word"),
        "{text}"
    );
}
