//! Checkpoints: the whole ledger, in parts, with a head row that says that all parts are there.

use fjall::Guard;
use sha2::{Digest, Sha256};
use simquota_shared::message::ops::Blob;
use simquota_shared::units::EntryNumber;

use super::{Store, StoreError};
use crate::ledger::Ledger;

/// Far below what the database takes as one value, and small enough not to fill a memtable at once.
const PART_OCTETS: usize = 1024 * 1024;
const HEAD: u8 = b'h';
const PART: u8 = b'c';

/// `[octets, parts, SHA-256]`
type Head = (u64, u32, Blob);

impl Store {
    /// Writes a checkpoint, and then drops the ones before it.
    ///
    /// # Errors
    /// [`StoreError`]; the journal is not touched by it.
    pub fn checkpoint(&mut self, ledger: &Ledger) -> Result<(), StoreError> {
        let octets = self.encoded(ledger)?;
        let hash = Sha256::digest(&octets);
        let mut parts = 0_u32;
        for part in octets.chunks(PART_OCTETS) {
            self.checkpoints
                .insert(part_key(ledger.last, parts), part)
                .map_err(|error| StoreError::from_fjall(&self.folder, "written", error))?;
            parts = parts.saturating_add(1);
        }
        let head: Head = (octets.len() as u64, parts, Blob(hash.to_vec()));
        let head = self.encoded(&head)?;
        // The sync of the head is one of all that was written before it.
        self.put_durably(&self.checkpoints, &head_key(ledger.last), head)?;
        self.drop_checkpoints_before(ledger.last)
    }

    /// The newest checkpoint that is whole. A damaged one is passed over: the journal has everything.
    pub(super) fn latest_checkpoint(&self) -> Result<Option<Ledger>, StoreError> {
        let heads: Vec<Guard> = self.checkpoints.prefix([HEAD]).rev().collect();
        for head in heads {
            let (key, octets) = head
                .into_inner()
                .map_err(|error| StoreError::from_fjall(&self.folder, "read", error))?;
            let Some(last) = number_of(&key) else {
                continue;
            };
            match self.read_checkpoint(last, &octets) {
                Ok(ledger) => return Ok(Some(ledger)),
                Err(why) => {
                    tracing::warn!(entry = last.value(), why, "checkpoint passed over");
                }
            }
        }
        Ok(None)
    }

    fn read_checkpoint(&self, last: EntryNumber, head: &[u8]) -> Result<Ledger, String> {
        let (length, parts, hash): Head =
            serde_cbor::from_slice(head).map_err(|error| error.to_string())?;
        let mut octets = Vec::new();
        for part in 0..parts {
            let row = self.checkpoints.get(part_key(last, part));
            match row.map_err(|error| error.to_string())? {
                Some(row) => octets.extend_from_slice(&row),
                None => return Err(format!("part {part} is missing")),
            }
        }
        if octets.len() as u64 != length || Sha256::digest(&octets).as_slice() != hash.0 {
            return Err("its hash does not fit".to_owned());
        }
        let mut ledger: Ledger =
            serde_cbor::from_slice(&octets).map_err(|error| error.to_string())?;
        if ledger.last != last {
            return Err(format!("it is one of entry {}", ledger.last));
        }
        ledger.reindex();
        Ok(ledger)
    }

    fn drop_checkpoints_before(&mut self, last: EntryNumber) -> Result<(), StoreError> {
        let failed = |error| StoreError::from_fjall(&self.folder, "written", error);
        for kind in [HEAD, PART] {
            let mut end = vec![kind];
            end.extend(last.value().to_be_bytes());
            let old: Vec<_> = self
                .checkpoints
                .range(vec![kind]..end)
                .map(Guard::key)
                .collect::<Result<_, _>>()
                .map_err(failed)?;
            for key in old {
                self.checkpoints.remove(key).map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn head_key(last: EntryNumber) -> [u8; 9] {
    let mut key = [HEAD; 9];
    for (place, octet) in key.iter_mut().skip(1).zip(last.value().to_be_bytes()) {
        *place = octet;
    }
    key
}

fn part_key(last: EntryNumber, part: u32) -> Vec<u8> {
    let mut key = vec![PART];
    key.extend(last.value().to_be_bytes());
    key.extend(part.to_be_bytes());
    key
}

fn number_of(head_key: &[u8]) -> Option<EntryNumber> {
    let (_, number) = head_key.split_first()?;
    Some(EntryNumber(u64::from_be_bytes(number.try_into().ok()?)))
}
