//! Answers out of the journal, on a thread of their own: the pipeline never waits for them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use serde_cbor::Value;

use super::backup;
use super::pipeline::{Inbox, Notice};
use super::store::Reader;
use crate::charging::{Query, value_map};

/// Questions that wait. Who asks one more asks again later.
const WAITING_MAX: usize = 16;

struct Job {
    query: Query,
    reader: Reader,
}

/// Questions that wait or are being answered.
type Asked = Arc<Mutex<Vec<Query>>>;

/// Where questions are handed in.
pub(super) struct Desk {
    jobs: Option<SyncSender<Job>>,
    asked: Asked,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn lock(asked: &Asked) -> MutexGuard<'_, Vec<Query>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// Backups go into `backups`.
    pub(super) fn open(inbox: Arc<Inbox>, backups: PathBuf) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(WAITING_MAX);
        let asked = Asked::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("query".to_owned())
            .spawn(move || answer_all(&waiting, &inbox, &seen, &stopped, &backups))?;
        Ok(Self {
            jobs: Some(jobs),
            asked,
            stop,
            thread: Some(thread),
        })
    }

    /// Hands a question in. One that is waiting already is not asked twice: askers repeat themselves.
    pub(super) fn ask(&self, query: Query, reader: Reader) {
        let mut asked = lock(&self.asked);
        if asked.contains(&query) {
            return;
        }
        let Some(jobs) = &self.jobs else {
            return;
        };
        let job = Job {
            query: query.clone(),
            reader,
        };
        match jobs.try_send(job) {
            Ok(()) => asked.push(query),
            Err(TrySendError::Full(_)) => tracing::warn!("question dropped, too many wait"),
            Err(TrySendError::Disconnected(_)) => {
                tracing::error!("the query thread is gone: start the service again")
            }
        }
    }
}

impl Drop for Desk {
    /// Ends the thread, and with it its hold on the store.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the query thread panicked: report this");
        }
    }
}

fn answer_all(
    waiting: &Receiver<Job>,
    inbox: &Inbox,
    asked: &Asked,
    stop: &AtomicBool,
    backups: &Path,
) {
    for Job { query, reader } in waiting {
        if let Some(name) = query.backup_name() {
            let answer = query.reply(backed_up(&backups.join(format!("{name}.journal")), &reader));
            lock(asked).retain(|other| *other != query);
            match answer {
                Ok(outgoing) => inbox.notice(Notice::Answer(outgoing)),
                Err(broken) => tracing::error!(%broken, "backup not answered: report this"),
            }
            continue;
        }
        let entries = reader.entries(query.from()).map(|entry| {
            if stop.load(Ordering::Relaxed) {
                return Err("the service stops: ask again later".to_owned());
            }
            entry.map_err(|error| error.to_string())
        });
        let answer = query.answer(entries);
        lock(asked).retain(|other| *other != query);
        match answer {
            Ok(_) if stop.load(Ordering::Relaxed) => return,
            Ok(outgoing) => inbox.notice(Notice::Answer(outgoing)),
            Err(broken) => tracing::error!(%broken, "question not answered: report this"),
        }
    }
}

fn backed_up(path: &Path, reader: &Reader) -> Value {
    match backup::write(path, reader) {
        Ok(held) => value_map([
            ("file", Value::Text(path.display().to_string())),
            ("entries", Value::Integer(i128::from(held.entries))),
            ("octets", Value::Integer(i128::from(held.octets))),
        ]),
        Err(error) => {
            tracing::warn!(%error, "no backup written");
            value_map([("error", Value::Text(error.to_string()))])
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use simquota_shared::envelope::Kid;

    use super::*;
    use crate::charging::{Address, Scope};
    use crate::io::store::Store;

    fn question(number: usize) -> Query {
        Query::audit(Address {
            scope: Scope::Ops,
            author: "admin".parse().unwrap(),
            kid: Kid::first(&"admin"),
            id: format!("order-{number}").parse().unwrap(),
        })
    }

    #[test]
    fn questions_that_wait_are_asked_once_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (jobs, waiting) = sync_channel(WAITING_MAX);
        let desk = Desk {
            jobs: Some(jobs),
            asked: Asked::default(),
            stop: Arc::default(),
            thread: None,
        };
        for number in 0..WAITING_MAX + 3 {
            for _ in 0..2 {
                desk.ask(question(number), store.reader());
            }
        }
        let asked: Vec<Query> = waiting.try_iter().map(|job| job.query).collect();
        let expected: Vec<Query> = (0..WAITING_MAX).map(question).collect();
        assert_eq!(asked, expected);
        // Who was not heard may ask again.
        desk.ask(question(WAITING_MAX), store.reader());
        assert_eq!(waiting.try_iter().count(), 1);
    }
}
