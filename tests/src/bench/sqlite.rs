//! What SQLite does of the same work: for each operation two balances and a row of as many octets, in groups, durable.
//!
//! Nothing is decided, refused or chained there; prepared statements, a write-ahead log, `synchronous = FULL`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rusqlite::{Connection, params};

use super::figures::{number, ratio};
use super::world::Dice;
use super::zipf::Zipf;

/// Operations a second, `group` of them for each commit.
pub(super) fn measure(
    folder: &Path,
    accounts: &Zipf,
    group: usize,
    octets: f64,
    length: Duration,
) -> anyhow::Result<f64> {
    let folder = tempfile::Builder::new()
        .prefix("sqlite-")
        .tempdir_in(folder)
        .context("cannot make a folder")?;
    let mut database = Connection::open(folder.path().join("ledger.db"))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.execute_batch(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, aside INTEGER NOT NULL, used INTEGER NOT NULL);
         CREATE TABLE entry (number INTEGER PRIMARY KEY, body BLOB NOT NULL);",
    )?;
    let transaction = database.transaction()?;
    {
        let mut insert = transaction.prepare("INSERT INTO account VALUES (?1, 0, 0)")?;
        for id in 0..i64::try_from(accounts.len())? {
            insert.execute(params![id])?;
        }
    }
    transaction.commit()?;
    let mut dice = Dice::new(2);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a row's size"
    )]
    let body: Vec<u8> = (0..octets as usize).map(|_| dice.octet()).collect();
    let (mut ops, mut took) = (0_u64, Duration::ZERO);
    while took < length {
        let ids = (0..group)
            .map(|_| i64::try_from(accounts.draw(&mut dice)))
            .collect::<Result<Vec<_>, _>>()?;
        let began = Instant::now();
        let transaction = database.transaction()?;
        {
            let mut book = transaction.prepare_cached(
                "UPDATE account SET aside = aside - ?2, used = used + ?2 WHERE id = ?1",
            )?;
            let mut write = transaction.prepare_cached("INSERT INTO entry (body) VALUES (?1)")?;
            for id in ids {
                book.execute(params![id, 1000])?;
                write.execute(params![body])?;
            }
        }
        transaction.commit()?;
        took += began.elapsed();
        ops += group as u64;
    }
    Ok(ratio(number(ops), took.as_secs_f64()))
}
