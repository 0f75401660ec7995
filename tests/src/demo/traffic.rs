//! Real traffic over 127.0.0.1 for the agent that meters `lo`: datagrams, and short TCP connections.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;

use super::trace::Random;

const DATAGRAM_OCTETS: usize = 1_200;
const DATAGRAM_EVERY: Duration = Duration::from_millis(6);
const TRANSFER_OCTETS: (u64, u64) = (60_000, 200_000);
const TRANSFER_EVERY: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(5);

/// Traffic until it is stopped. Dropping it stops it.
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    octets: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub(super) fn begin(seed: u64) -> anyhow::Result<Traffic> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let no_socket = "cannot open a socket on 127.0.0.1: raise the limit of open files";
        let sink = UdpSocket::bind(any).context(no_socket)?;
        let sender = UdpSocket::bind(any).context(no_socket)?;
        sender.connect(sink.local_addr()?)?;
        let listener = TcpListener::bind(any).context(no_socket)?;
        let to = listener.local_addr()?;
        let mut traffic = Traffic {
            stop: Arc::default(),
            octets: Arc::default(),
            threads: Vec::new(),
        };
        // The sink is only kept: what nobody reads has passed the interface all the same.
        traffic.spawn(move |stop, octets| {
            while !stop.load(Ordering::Relaxed) {
                if sender.send(&[0x55; DATAGRAM_OCTETS]).is_ok() {
                    octets.fetch_add(DATAGRAM_OCTETS as u64, Ordering::Relaxed);
                }
                thread::sleep(DATAGRAM_EVERY);
            }
            drop(sink);
        })?;
        traffic.spawn(move |stop, octets| {
            let mut random = Random::new(seed);
            while !stop.load(Ordering::Relaxed) {
                let size = random.within(TRANSFER_OCTETS.0, TRANSFER_OCTETS.1);
                octets.fetch_add(transfer(&listener, to, size), Ordering::Relaxed);
                thread::sleep(TRANSFER_EVERY);
            }
        })?;
        Ok(traffic)
    }

    fn spawn(
        &mut self,
        work: impl FnOnce(&AtomicBool, &AtomicU64) + Send + 'static,
    ) -> anyhow::Result<()> {
        let (stop, octets) = (Arc::clone(&self.stop), Arc::clone(&self.octets));
        let thread = thread::Builder::new()
            .name("traffic".to_owned())
            .spawn(move || work(&stop, &octets))
            .context("the system gives no thread")?;
        self.threads.push(thread);
        Ok(())
    }

    /// Ends it. Every octet of payload that was counted has passed the interface then.
    pub(super) fn end(mut self) -> u64 {
        self.halt();
        self.octets.load(Ordering::Relaxed)
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has told so itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Sends `size` octets over a connection of their own; how many the other end has read.
fn transfer(listener: &TcpListener, to: SocketAddr, size: u64) -> u64 {
    let Ok(mut client) = TcpStream::connect_timeout(&to, PATIENCE) else {
        return 0;
    };
    let Ok((mut server, _)) = listener.accept() else {
        return 0;
    };
    let ready = [&client, &server].into_iter().all(|stream| {
        stream.set_read_timeout(Some(PATIENCE)).is_ok()
            && stream.set_write_timeout(Some(PATIENCE)).is_ok()
    });
    if !ready {
        return 0;
    }
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut read = 0;
            let mut some = [0; 16 * 1024];
            while let Ok(count) = server.read(&mut some) {
                if count == 0 {
                    break;
                }
                read += count as u64;
            }
            read
        });
        let mut left = size;
        while left > 0 {
            let some = [0x55; 16 * 1024];
            let count = usize::try_from(left).unwrap_or(some.len()).min(some.len());
            if client
                .write_all(some.get(..count).unwrap_or(&some))
                .is_err()
            {
                break;
            }
            left -= count as u64;
        }
        // The reader learns the end by it.
        let _ = client.shutdown(Shutdown::Write);
        reader.join().unwrap_or(0)
    })
}

/// Octets that the kernel has received on `lo`; nothing where it does not say.
pub(super) fn lo_received() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/class/net/lo/statistics/rx_bytes").ok()?;
    text.trim().parse().ok()
}
