//! What operators set: the log, HTTP, web hooks.

use simquota_shared::ids::KeyId;

use super::raw::{RawHook, RawHttp};
use super::{At, ConfigMistake};
use crate::io::hooks::{HOOKS_MAX, HookConfig, roots};
use crate::io::http::HttpConfig;

impl At<'_> {
    pub(super) fn log(&self, text: String) -> Result<String, ConfigMistake> {
        let read = text.parse::<tracing_subscriber::filter::Targets>();
        read.map_err(|error| self.wrong("log", format!("{error}: write for example \"info\"")))?;
        Ok(text)
    }

    pub(super) fn http(&self, raw: &RawHttp) -> Result<HttpConfig, ConfigMistake> {
        let listen = match raw.listen.as_str() {
            "" => None,
            address => Some(address.parse().map_err(|_| {
                let text =
                    format!("'{address}' is no address: write for example 127.0.0.1:9464, or \"\"");
                self.wrong("http.listen", text)
            })?),
        };
        Ok(HttpConfig {
            listen,
            metrics_open: raw.metrics_open,
        })
    }

    pub(super) fn hooks(&self, raw: Vec<RawHook>) -> Result<Vec<HookConfig>, ConfigMistake> {
        if raw.len() > HOOKS_MAX {
            let text = format!("{} are too many: write at most {HOOKS_MAX}", raw.len());
            return Err(self.wrong("hook", text));
        }
        let mut hooks: Vec<HookConfig> = Vec::new();
        for hook in raw {
            let name: KeyId = hook
                .name
                .parse()
                .map_err(|error| self.wrong("hook.name", error))?;
            if hooks.iter().any(|other| other.name == name) {
                let text = format!("'{name}' is there twice: each has a cursor of its own");
                return Err(self.wrong("hook.name", text));
            }
            let fits = hook.url.parse::<ureq::http::Uri>().is_ok_and(|url| {
                matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
            });
            if !fits {
                let text = format!("'{}' is no address: write https://HOST/PATH", hook.url);
                return Err(self.wrong("hook.url", text));
            }
            let ca = hook.ca_file.map(|file| self.folder.join(file));
            if let Some(file) = &ca {
                roots(file).map_err(|error| self.wrong("hook.ca_file", error))?;
            }
            let fleet = hook.fleet.map(|fleet| fleet.parse()).transpose();
            hooks.push(HookConfig {
                name,
                url: hook.url,
                fleet: fleet.map_err(|error| self.wrong("hook.fleet", error))?,
                kinds: hook.kinds,
                ca,
            });
        }
        Ok(hooks)
    }
}
