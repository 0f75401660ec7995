//! `backup`, while the service runs, and `restore`, while it does not.

use std::path::Path;

use anyhow::bail;
use serde_cbor::Value;
use simquota_shared::ids::KeyId;

use super::ask::Asker;
use super::{Common, print, show};
use crate::charging::value_map;
use crate::config::Config;
use crate::io::backup;

pub(super) fn run(common: &Common, name: &KeyId) -> anyhow::Result<()> {
    let args = value_map([("name", Value::Text(name.to_string()))]);
    let answer = Asker::open(common)?.ask(None, "backup", args)?;
    if let Value::Text(why) = show::field(&answer, "error") {
        bail!("{why}");
    }
    if common.json {
        return Ok(print(&show::json_line(&answer))?);
    }
    Ok(print(&format!(
        "{} entries are in {}, on the service's machine; keys are not in it: keep a copy of the folder `keys` too\n",
        show::text(&answer, "entries"),
        show::text(&answer, "file"),
    ))?)
}

pub(super) fn restore(common: &Common, file: &Path, replace: bool) -> anyhow::Result<()> {
    let config = Config::read(&common.config)?;
    let held = backup::restore(file, &config.store_folder(), replace)?;
    if common.json {
        let row = serde_json::json!({ "entries": held.entries });
        return Ok(print(&format!("{row}\n"))?);
    }
    Ok(print(&format!(
        "{} entries restored; next: `simquota-cloud audit --offline`, then `simquota-cloud serve`. Devices that have more\nthan the ledger now says so themselves, and the two sides agree again\n",
        held.entries
    ))?)
}
