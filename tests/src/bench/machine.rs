//! What the machine says of itself: load, cores, disks, time spent by processes. Linux only.

use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Runnable processes on average over 1, 5 and 15 minutes, as the kernel writes them.
#[derive(Clone, Debug)]
pub(super) struct Load(Vec<String>);

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl Load {
    pub(super) fn values(&self) -> Vec<Value> {
        let numbers = self.0.iter().map(|text| text.parse::<f64>());
        numbers.filter_map(Result::ok).map(Value::from).collect()
    }
}

pub(super) fn load() -> Load {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Load(text.split(' ').take(3).map(str::to_owned).collect())
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Where a folder lies.
pub(super) struct Disk {
    /// Kind of file system and device, for example `ext4 (/dev/vda)`.
    pub(super) what: String,
    kind: String,
}

impl Disk {
    /// A sync costs nothing there, and a power cut takes all.
    pub(super) fn is_memory(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs")
    }
}

pub(super) fn disk(folder: &Path) -> Disk {
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut best: (usize, String, String) = (0, "unknown".to_owned(), String::new());
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(place), Some(kind)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        // The deepest mount point, and of equal ones the last, is the one in force.
        if folder.starts_with(place) && place.len() >= best.0 {
            best = (place.len(), kind.to_owned(), device.to_owned());
        }
    }
    let (_, kind, device) = best;
    Disk {
        what: format!("{kind} ({device})"),
        kind,
    }
}

/// One process in `/proc`.
struct Process {
    id: u32,
    name: String,
    parent: u32,
    ticks: u64,
}

fn process(id: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name stands in parentheses and may have some itself.
    let (head, rest) = text.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let words: Vec<&str> = rest.split(' ').collect();
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
    Some(Process {
        id,
        name: name.to_owned(),
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)?.saturating_add(number(12)?),
    })
}

/// A child of this process by its program's name.
pub(super) fn child_named(name: &str) -> Option<u32> {
    let ours = std::process::id();
    let rows = fs::read_dir("/proc").ok()?;
    rows.filter_map(Result::ok)
        .filter_map(|row| row.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .find(|found| found.parent == ours && found.name == name)
        .map(|found| found.id)
}

/// Seconds of processor time that a process has taken so far; 0 when it is gone.
pub(super) fn cpu_s(id: u32) -> f64 {
    // The kernel tells in hundredths, whatever its own clock is (USER_HZ).
    let ticks = process(id).map_or(0, |found| found.ticks);
    super::figures::number(ticks) / 100.0
}

/// Octets that a process has written so far, to whatever; none when it is gone.
pub(super) fn written(id: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/io")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: "))?;
    line.parse().ok()
}
