//! What publishers send: sealed in advance, so that sealing takes no time from what is measured.

use anyhow::{Context as _, bail};
use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::{Key, Kid, Received, seal};
use simquota_shared::message::UsageAck;
use simquota_shared::topic::{Down, Topic, Up};
use simquota_shared::units::{Epoch, Octets, Seq, UnixMillis};

use super::stand::Template;
use super::world::{Device, SAMPLES};

/// The reports of one device, in order.
pub(super) struct Talk {
    /// Where it speaks.
    pub(super) up: String,
    /// Where it is answered.
    pub(super) down: String,
    pub(super) messages: Vec<Vec<u8>>,
    device: Device,
    kid: Kid,
    key: Key,
}

/// The reports of all devices.
pub(super) struct Load(Vec<Talk>);

impl Load {
    pub(super) fn new(template: &Template) -> anyhow::Result<Load> {
        let talks = template.devices.iter().map(|device| {
            let key = key_of(template, device)?;
            Ok(Talk {
                up: Topic::Up(device.id.clone(), Up::Usage).to_string(),
                down: Topic::Down(device.id.clone(), Down::Usage).to_string(),
                messages: Vec::new(),
                device: device.clone(),
                kid: device.kid.clone(),
                key,
            })
        });
        Ok(Load(talks.collect::<anyhow::Result<_>>()?))
    }

    pub(super) fn talks(&self) -> &[Talk] {
        &self.0
    }

    /// Makes up reports until each device has so many.
    pub(super) fn ensure(&mut self, each: usize) -> anyhow::Result<()> {
        for talk in &mut self.0 {
            while talk.messages.len() < each {
                let report = codec::encode(&talk.device.report())?;
                talk.messages
                    .push(seal(&talk.key, &talk.kid, &talk.up, &report)?);
            }
        }
        Ok(())
    }

    /// Octets of a report on the wire, topic aside.
    pub(super) fn report_octets(&self) -> usize {
        let first = self.0.first().and_then(|talk| talk.messages.last());
        first.map_or(0, Vec::len)
    }

    /// Octets of an acknowledgement as the service would say it.
    pub(super) fn answer_octets(&self) -> anyhow::Result<usize> {
        let talk = self.0.first().context("there are no devices")?;
        let ack = UsageAck {
            epoch: Epoch(1),
            code: Code::SUCCESS,
            mark: Seq(SAMPLES * 50),
            total: Octets(5_000_000),
            first: Seq(SAMPLES * 49 + 1),
            retry_s: None,
            now: UnixMillis(1_800_000_000_000),
        };
        let sealed = seal(&talk.key, &talk.kid, &talk.down, &codec::encode(&ack)?)?;
        Ok(sealed.len())
    }
}

impl Talk {
    /// Checks that this answer comes from the service and says that the first `sent` reports are durable.
    pub(super) fn verify(&self, answer: &[u8], sent: usize) -> anyhow::Result<()> {
        let received = Received::parse(answer)?;
        let ack: UsageAck = codec::decode(received.verify(&self.key, &self.down)?)?;
        let mark = SAMPLES * sent as u64;
        if !ack.code.is_success() || ack.mark != Seq(mark) {
            bail!(
                "{} sent samples up to {mark}, and the last acknowledgement says {} up to {}",
                self.device.id,
                ack.code.0,
                ack.mark
            );
        }
        Ok(())
    }
}

pub(super) fn key_of(template: &Template, device: &Device) -> anyhow::Result<Key> {
    let batch = template.keys.iter().find(|(kid, _)| *kid == device.kid);
    let (kid, key) = batch.context("a device's batch has no key; report this")?;
    Ok(key.for_device(&device.id, kid.generation))
}
