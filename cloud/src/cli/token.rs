//! `token` and `hook-key`: secrets that are made here, out of keys that stay here. Nothing travels.

use anyhow::{Context as _, anyhow};
use simquota_shared::ids::KeyId;

use super::ask::Asker;
use super::{Common, print};
use crate::config::Config;
use crate::io::http::token;
use crate::io::keys::KeyFolder;
use crate::io::{clock, hooks};

const DAY_S: u64 = 86_400;

pub(super) fn token(common: &Common, days: u64) -> anyhow::Result<()> {
    let asker = Asker::open(common)?;
    let (kid, key) = asker.identity();
    let end_s = (clock::now().value() / 1000).saturating_add(days.saturating_mul(DAY_S));
    let token = token::token(key, kid, end_s).context("the key makes no token: report this")?;
    print(&format!("{token}\n"))?;
    Ok(())
}

pub(super) fn hook_key(common: &Common, name: &KeyId) -> anyhow::Result<()> {
    let config = Config::read(&common.config)?;
    if !config.hooks.iter().any(|hook| hook.name == *name) {
        return Err(anyhow!(
            "{} has no hook '{name}': write it there first",
            common.config.display()
        ));
    }
    let node_key = KeyFolder::open(&config.data)?.node()?;
    let key = hooks::key(&node_key, name).context("the key can't be derived: report this")?;
    print(&format!("{}\n", hex::encode(key.as_slice())))?;
    Ok(())
}
