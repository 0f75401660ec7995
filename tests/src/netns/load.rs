//! Packets on the SIM: floods and bulk transfers, on threads of their own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A receiver that hears nothing for so long takes it for the end.
const SILENCE: Duration = Duration::from_secs(5);
/// Octets of payload in a flood's packet.
const PAYLOAD: usize = 1_000;

/// Packets of a thousand octets of payload from a socket to an address, until it is dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// As fast as the socket takes them, whatever becomes of them.
    #[must_use]
    pub fn unending(socket: UdpSocket, to: SocketAddr) -> Flood {
        Flood::begin(socket, to, None)
    }

    /// Ten at a time, and a pause after them.
    #[must_use]
    pub fn paced(socket: UdpSocket, to: SocketAddr, pause: Duration) -> Flood {
        Flood::begin(socket, to, Some(pause))
    }

    fn begin(socket: UdpSocket, to: SocketAddr, pause: Option<Duration>) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..10 {
                    // The gate refuses some of them: that is what it is for.
                    let _ = socket.send_to(&[7; PAYLOAD], to);
                }
                if let Some(pause) = pause {
                    thread::sleep(pause);
                }
            }
        });
        Flood {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends until the connection breaks or `octets` are sent, on a thread of its own; returns how much the other end got
/// and how each end ended.
pub fn bulk(from: TcpStream, to: TcpStream, octets: u64) -> thread::JoinHandle<Ended> {
    thread::spawn(move || {
        let sender = thread::spawn(move || send(from, octets));
        let received = receive(to);
        Ended {
            received: received.0,
            receiver: received.1,
            sender: sender.join().unwrap_or(None),
        }
    })
}

/// How a bulk transfer ended.
#[derive(Debug)]
pub struct Ended {
    /// Octets of payload that arrived.
    pub received: u64,
    /// What the receiver's socket said last; none is an orderly end.
    pub receiver: Option<io::ErrorKind>,
    /// The same for the sender's.
    pub sender: Option<io::ErrorKind>,
}

fn send(mut to: TcpStream, octets: u64) -> Option<io::ErrorKind> {
    // A flow that the gate cut without a word must not hold up the test for ever.
    let _ = to.set_write_timeout(Some(SILENCE));
    let block = [0x55_u8; 16 * 1024];
    let mut left = octets;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        match to.write(block.get(..part).unwrap_or(&block)) {
            Ok(sent) => left = left.saturating_sub(sent as u64),
            Err(error) => return Some(error.kind()),
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    None
}

fn receive(mut from: TcpStream) -> (u64, Option<io::ErrorKind>) {
    // The gate tells the end that sends; one that only listens hears nothing more.
    let _ = from.set_read_timeout(Some(SILENCE));
    let mut block = [0_u8; 16 * 1024];
    let mut received = 0_u64;
    loop {
        match from.read(&mut block) {
            Ok(0) => return (received, None),
            Ok(octets) => received = received.saturating_add(octets as u64),
            Err(error) => return (received, Some(error.kind())),
        }
    }
}
