//! A device's enrolment string: `csim1:{device}:{batch}/{generation}:{64 hexadecimal digits}`.
//!
//! With the broker's address behind it (`…@mqtts://HOST:PORT`) it is all that a device needs to begin.
//!
//! The digits are the device's own key, derived from its batch's. It goes onto the device by a cable or in the
//! factory, never over the network.

use anyhow::{anyhow, bail};
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, EnrolmentId};

use super::{Common, DryRun, print};
use crate::config::Config;
use crate::io::keys::KeyFolder;
use crate::io::roster::{self, Line};

pub(super) fn print_string(
    common: &Common,
    device: &DeviceId,
    batch: &EnrolmentId,
    broker: Option<&str>,
) -> anyhow::Result<()> {
    if let Some(url) = broker
        && !(url.starts_with("mqtts://") || url.starts_with("mqtt://"))
    {
        bail!("--to {url} is not mqtts://HOST:PORT: write the broker as the device reaches it");
    }
    let config = Config::read(&common.config)?;
    let keys = KeyFolder::open(&config.data)?;
    let kid = Kid::first(batch);
    let key = keys
        .enrolment(&kid)?
        .ok_or_else(|| anyhow!("there is no batch {batch} here: make it, or restore its key"))?
        .for_device(device, kid.generation);
    if common.dry_run {
        return Err(DryRun.into());
    }
    // Before anybody holds it: who is not on the roster has no user at the broker.
    roster::note(&config.data, &Line::Device(device.clone(), kid.clone()))?;
    let string = format!("csim1:{device}:{kid}:{}", key.to_hex().as_str());
    let string = match broker {
        Some(url) => format!("{string}@{url}"),
        None => string,
    };
    if common.json {
        let row = serde_json::json!({
            "device": device.as_str(),
            "batch": batch.as_str(),
            "enrolment": string,
        });
        print(&format!("{row}\n"))?;
    } else {
        print(&format!("{string}\n"))?;
    }
    Ok(())
}
