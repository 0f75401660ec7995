//! Free TCP ports on loopback.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail};

const FIRST: u16 = 20_000;
const BLOCK: u16 = 100;
const BLOCKS: u16 = 120;

/// A run of ports that no other process of this user takes, for as long as this one lives: the lock goes with the
/// process, however it ends.
struct Block {
    left: Range<u16>,
    _lock: File,
}

static BLOCKS_HELD: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// A loopback port on which nobody listens, and which no other call gets, in any process of this user, as long as
/// this one lives. Without that two brokers that start at the same time take one for the other.
///
/// It lies below 32768, where Linux begins to take the ports of outgoing connections. A port that the kernel
/// picked for `bind(0)` is no good for a broker that goes away and comes back: a client that keeps trying to
/// reach it gets that very port as its own sooner or later, is connected to itself, and blocks it.
///
/// # Errors
/// When all ports of the range are taken, or no lock can be made in the folder for temporary files.
pub fn free_port() -> anyhow::Result<u16> {
    let mut held = BLOCKS_HELD.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let port = held.last_mut().and_then(|block| block.left.next());
        match port {
            Some(port) if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() => {
                return Ok(port);
            }
            Some(_) => {}
            None => held.push(lock_block()?),
        }
    }
}

fn lock_block() -> anyhow::Result<Block> {
    let user = rustix::process::getuid();
    let folder = std::env::temp_dir().join(format!("simquota-ports-{user}"));
    let advice = || format!("cannot write in {}; check its rights", folder.display());
    fs::create_dir_all(&folder).with_context(advice)?;
    // A process begins where the one before it did not: what that one left behind may still look for its broker.
    let start = std::process::id();
    for step in 0..u32::from(BLOCKS) {
        let number = u16::try_from(start.wrapping_add(step) % u32::from(BLOCKS))?;
        let first = FIRST + number * BLOCK;
        let lock = File::create(folder.join(first.to_string())).with_context(advice)?;
        if lock.try_lock().is_ok() {
            let left = first..first + BLOCK;
            return Ok(Block { left, _lock: lock });
        }
    }
    bail!("no free port from {FIRST} up on loopback; stop the tests and demos that run")
}
