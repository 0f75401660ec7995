//! Profiles: named sets of configuration and key, for people who look after several fleets or brokers.
//!
//! ```toml
//! [profiles.north]
//! config = "/etc/simquota/cloud.toml"
//! key = "/home/ada/north-manager.1.key"
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;

use super::Common;
use crate::io::keys::ADMIN;

const CONFIG: &str = "cloud.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    config: Option<PathBuf>,
    key: Option<String>,
    wait_s: Option<u64>,
    #[serde(default)]
    json: bool,
}

/// What was given, else what the profile says, else what is usual.
pub(super) fn settle(common: &mut Common) -> anyhow::Result<()> {
    let profile = match &common.profile {
        Some(name) => {
            let home = std::env::var_os("HOME").map(PathBuf::from);
            let usual = home.map(|home| home.join(".config/simquota/profiles.toml"));
            let file = common.profiles.clone().or(usual);
            read(
                &file.ok_or_else(|| anyhow!("name the file of profiles with --profiles"))?,
                name,
            )?
        }
        None => Profile::default(),
    };
    let Profile {
        config,
        key,
        wait_s,
        json,
    } = profile;
    common.config = common
        .config_given
        .clone()
        .or(config)
        .unwrap_or_else(|| PathBuf::from(CONFIG));
    common.key = common
        .key_given
        .clone()
        .or(key)
        .unwrap_or_else(|| ADMIN.to_owned());
    common.wait_s = common.wait_given_s.or(wait_s).unwrap_or(10);
    common.json |= json;
    Ok(())
}

fn read(file: &Path, name: &str) -> anyhow::Result<Profile> {
    let found: File = config::Config::builder()
        .add_source(config::File::from(file).format(config::FileFormat::Toml))
        .build()
        .and_then(config::Config::try_deserialize)
        .with_context(|| format!("the profiles in {} can't be used", file.display()))?;
    let Some(profile) = found.profiles.get(name) else {
        let names: Vec<&str> = found.profiles.keys().map(String::as_str).collect();
        bail!(
            "no profile {name} in {}: there are {}",
            file.display(),
            names.join(", ")
        );
    };
    let mut profile = profile.clone();
    // As people expect it: beside the file that names it.
    if let (Some(config), Some(folder)) = (&profile.config, file.parent()) {
        profile.config = Some(folder.join(config));
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_profile_is_found_by_name_and_mistakes_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profiles.toml");
        std::fs::write(
            &file,
            "[profiles.north]\nconfig = \"north.toml\"\nkey = \"boss\"\n",
        )
        .unwrap();
        let north = read(&file, "north").unwrap();
        assert_eq!(north.config, Some(folder.path().join("north.toml")));
        assert_eq!(north.key.as_deref(), Some("boss"));
        let error = read(&file, "south").unwrap_err().to_string();
        assert!(error.ends_with("there are north"), "{error}");
        std::fs::write(&file, "[profiles.north]\nkeey = \"boss\"\n").unwrap();
        let error = format!("{:#}", read(&file, "north").unwrap_err());
        assert!(error.contains("keey"), "{error}");
    }
}
