//! The broker's end of a connection, spoken by hand: for tests of what goes over the line, octet for octet.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// How long a test waits for any fact.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];

pub(crate) fn broker() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

pub(crate) struct Peer(TcpStream);

/// A PUBLISH from the client.
pub(crate) struct Published {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) retain: bool,
    id: [u8; 2],
}

/// What a client says besides CONNECT and SUBSCRIBE.
pub(crate) enum Word {
    Published(Published),
    /// PUBACK of this packet id.
    Acknowledged(u8),
    Disconnect,
}

impl Peer {
    pub(crate) fn accept(listener: &TcpListener) -> Peer {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Peer(stream)
    }

    /// A packet's first octet and body; `None` at the end of the connection.
    pub(crate) fn read(&mut self) -> Option<(u8, Vec<u8>)> {
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

    /// Takes CONNECT and SUBSCRIBE, the first thing after each connect; returns the body of CONNECT.
    pub(crate) fn greet(&mut self, codes: &[u8]) -> Vec<u8> {
        self.greet_with(CONNACK, codes)
    }

    /// The same, with a CONNACK of one's own.
    pub(crate) fn greet_with(&mut self, connack: &[u8], codes: &[u8]) -> Vec<u8> {
        let (kind, connect) = self.read().unwrap();
        assert_eq!(kind, 0x10);
        self.write(connack);
        let (kind, body) = self.read().unwrap();
        assert_eq!(kind, 0x82, "SUBSCRIBE comes first");
        let length = u8::try_from(3 + codes.len()).unwrap();
        self.write(&[&[0x90, length, body[0], body[1], 0], codes].concat());
        connect
    }

    /// Delivers a message at QoS 1.
    pub(crate) fn deliver(&mut self, topic: &str, id: u8, payload: &[u8]) {
        let length = 5 + topic.len() + payload.len();
        let topic_length = u8::try_from(topic.len()).unwrap();
        let (low, high) = (length & 0x7f | 0x80, length >> 7);
        let head = [
            0x32,
            u8::try_from(low).unwrap(),
            u8::try_from(high).unwrap(),
            0,
            topic_length,
        ];
        let message = [&head, topic.as_bytes(), &[0, id, 0], payload].concat();
        self.write(&message);
    }

    /// The next thing that the client says, pings apart.
    pub(crate) fn hear(&mut self) -> Word {
        loop {
            let (kind, body) = self.read().unwrap();
            match kind & 0xf0 {
                0x30 => {
                    assert_eq!(kind & 0x06, 0x02, "QoS 1");
                    let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                    assert_eq!(body[topic_end + 2], 0, "no properties");
                    return Word::Published(Published {
                        topic: String::from_utf8(body[2..topic_end].to_vec()).unwrap(),
                        payload: body[topic_end + 3..].to_vec(),
                        retain: kind & 1 == 1,
                        id: [body[topic_end], body[topic_end + 1]],
                    });
                }
                0x40 => return Word::Acknowledged(body[1]),
                0xe0 => return Word::Disconnect,
                0xc0 => self.write(&[0xd0, 0]),
                other => panic!("packet {other:#x}"),
            }
        }
    }

    /// The packet id of a PUBACK, which must be the next thing.
    pub(crate) fn acknowledged(&mut self) -> u8 {
        match self.hear() {
            Word::Acknowledged(id) => id,
            Word::Published(published) => panic!("PUBLISH to {}", published.topic),
            Word::Disconnect => panic!("DISCONNECT"),
        }
    }

    /// A PUBLISH, which must be the next thing.
    pub(crate) fn published(&mut self) -> Published {
        match self.hear() {
            Word::Published(published) => published,
            Word::Acknowledged(id) => panic!("PUBACK {id}"),
            Word::Disconnect => panic!("DISCONNECT"),
        }
    }

    pub(crate) fn ack(&mut self, published: &Published) {
        self.write(&[0x40, 2, published.id[0], published.id[1]]);
    }
}
