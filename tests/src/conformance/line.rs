//! The kit's connection: MQTT 3.1.1, everything that one device says.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use simquota_shared::ids::DeviceId;
use simquota_shared::topic::PREFIX;

use super::tls;

/// More than the largest message: the kit sends one that is too large, too.
const PACKET_OCTETS_MAX: usize = 256 * 1024;

type Heard = Result<(String, Vec<u8>), String>;

/// A connection that hears one device.
pub(super) struct Line {
    client: Client,
    heard: Receiver<Heard>,
}

impl Line {
    /// Returns when the subscriptions are in place.
    pub(super) fn connect(
        url: &str,
        ca: Option<&Path>,
        login: Option<&str>,
        device: &DeviceId,
    ) -> anyhow::Result<Self> {
        let (address, tls) = match url.strip_prefix("mqtts://") {
            Some(address) => (address, true),
            None => (url.strip_prefix("mqtt://").unwrap_or(url), false),
        };
        let (host, port) = address
            .trim_end_matches('/')
            .split_once(':')
            .context("the broker is given as mqtt://HOST:PORT or mqtts://HOST:PORT")?;
        let port = port.parse().context("the broker's port")?;
        let (host, port) = match (tls, ca) {
            (false, None) => (host, port),
            (true, Some(ca)) => ("127.0.0.1", tls::way(host, port, ca)?),
            (true, None) => bail!("mqtts:// needs --ca, the issuer of the broker's certificate"),
            (false, Some(_)) => bail!("--ca is for mqtts://"),
        };
        let id = format!("conformance-{device}");
        let mut options = MqttOptions::new(id, host, port);
        options.set_max_packet_size(PACKET_OCTETS_MAX, PACKET_OCTETS_MAX);
        options.set_keep_alive(Duration::from_secs(30));
        if let Some((user, password)) = login.and_then(|login| login.split_once(':')) {
            options.set_credentials(user, password);
        }
        let (client, mut connection) = Client::new(options, 100);
        for filter in [
            format!("{PREFIX}d/{device}/up/+"),
            format!("{PREFIX}d/{device}/status"),
        ] {
            client.subscribe(filter, QoS::AtLeastOnce)?;
        }
        let (sender, heard) = channel();
        let (ready, subscribed) = channel();
        std::thread::spawn(move || {
            for event in connection.iter() {
                let said = match event {
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        // Nobody waits for the second one.
                        let _ = ready.send(Ok(()));
                        continue;
                    }
                    // What was kept from an earlier life is not said now.
                    Ok(Event::Incoming(Packet::Publish(publish))) if !publish.retain => {
                        Ok((publish.topic, publish.payload.to_vec()))
                    }
                    Ok(_) => continue,
                    Err(error) => Err(error.to_string()),
                };
                let broken = said.is_err();
                if let Err(why) = &said {
                    let _ = ready.send(Err(why.clone()));
                }
                if sender.send(said).is_err() || broken {
                    return;
                }
            }
        });
        match subscribed.recv_timeout(Duration::from_secs(30)) {
            Ok(Ok(())) => Ok(Self { client, heard }),
            Ok(Err(why)) => bail!("no connection to {address}: {why}"),
            Err(_) => bail!("{address} did not answer in 30 s"),
        }
    }

    pub(super) fn send(&self, topic: String, message: Vec<u8>) -> anyhow::Result<()> {
        Ok(self
            .client
            .publish(topic, QoS::AtLeastOnce, false, message)?)
    }

    /// The next message until a moment; `None` when none came.
    pub(super) fn next(&self, until: Instant) -> anyhow::Result<Option<(String, Vec<u8>)>> {
        let left = until.saturating_duration_since(Instant::now());
        match self.heard.recv_timeout(left) {
            Ok(Ok(message)) => Ok(Some(message)),
            Ok(Err(why)) => bail!("the connection to the broker broke: {why}"),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the connection to the broker ended"),
        }
    }
}
