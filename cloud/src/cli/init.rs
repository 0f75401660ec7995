//! `init`: configuration, data folder and keys. Safe to run again: what exists stays as it is.

use std::fs;

use anyhow::{Context as _, anyhow};
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{KeyId, NodeId};

use super::{Common, print};
use crate::config::{Config, SHIPPED};
use crate::io::keys::{ADMIN, KeyFolder, Made};

pub(super) fn run(common: &Common, broker: Option<&str>, node: Option<&str>) -> anyhow::Result<()> {
    let path = &common.config;
    let made_config = if path.exists() {
        if broker.is_some() || node.is_some() {
            return Err(anyhow!(
                "{} exists: change broker and node in it, or remove it first",
                path.display()
            ));
        }
        false
    } else {
        let text = written(broker, node)?;
        // What is written must be readable, or the next command fails on a file that we made.
        Config::parse(&text, path)?;
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            fs::create_dir_all(folder)
                .with_context(|| format!("can't make {}", folder.display()))?;
        }
        fs::write(path, text).with_context(|| format!("can't write {}", path.display()))?;
        true
    };
    let config = Config::read(path)?;
    let keys = KeyFolder::create(&config.data)?;
    let node_made = keys.make_node()?;
    let admin: KeyId = ADMIN.parse()?;
    let admin_made = keys.make_person(&admin)?;
    let admin_path = keys.person_path(&Kid::first(&admin));
    if common.json {
        let row = serde_json::json!({
            "config": path,
            "data": config.data,
            "admin_key": admin_path,
            "made": {
                "config": made_config,
                "node_key": node_made == Made::New,
                "admin_key": admin_made == Made::New,
            },
        });
        return Ok(print(&format!("{row}\n"))?);
    }
    let said = |made| if made { "made" } else { "kept" };
    print(&format!(
        "{} configuration  {}\n{} data folder    {}\n{} node key\n{} admin key      {}\n\nnext: start a broker, then `simquota-cloud serve --config {}`\n",
        said(made_config),
        path.display(),
        said(node_made == Made::New),
        config.data.display(),
        said(node_made == Made::New),
        said(admin_made == Made::New),
        admin_path.display(),
        path.display(),
    ))?;
    Ok(())
}

/// The shipped file with broker and node as given.
fn written(broker: Option<&str>, node: Option<&str>) -> anyhow::Result<String> {
    let mut text = SHIPPED.to_owned();
    if let Some(broker) = broker {
        let (host, port) = broker.rsplit_once(':').with_context(|| {
            format!("'{broker}' is not HOST:PORT: write for example 127.0.0.1:1884")
        })?;
        let port: u16 = port
            .parse()
            .with_context(|| format!("'{port}' is not a port: write a number up to 65535"))?;
        let host = host.trim_matches(['[', ']']);
        // A quote would end the text in the file early.
        if host.is_empty() || host.contains(['"', '\\', '\n']) {
            return Err(anyhow!(
                "'{host}' is not a host: write a name or an address"
            ));
        }
        text = replaced(&text, "host = \"127.0.0.1\"", &format!("host = \"{host}\""))?;
        text = replaced(&text, "port = 1883", &format!("port = {port}"))?;
    }
    if let Some(node) = node {
        let node: NodeId = node.parse().context("--node")?;
        text = replaced(&text, "node = \"cloud-1\"", &format!("node = \"{node}\""))?;
    }
    Ok(text)
}

fn replaced(text: &str, line: &str, by: &str) -> anyhow::Result<String> {
    let found = format!("\n{line}\n");
    if !text.contains(&found) {
        return Err(anyhow!(
            "the shipped cloud.toml has no line {line}: report this"
        ));
    }
    Ok(text.replacen(&found, &format!("\n{by}\n"), 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn broker_and_node_stand_in_the_written_file() {
        let text = written(Some("[::1]:1884"), Some("east")).unwrap();
        let config = Config::parse(&text, Path::new("cloud.toml")).unwrap();
        assert_eq!(config.broker.host, "::1");
        assert_eq!(config.broker.port, 1884);
        assert_eq!(config.node.as_str(), "east");
        assert_eq!(text.lines().count(), SHIPPED.lines().count());
        for bad in ["host", "host:x", "ho\"st:1", ":1"] {
            assert!(written(Some(bad), None).is_err(), "{bad}");
        }
    }
}
