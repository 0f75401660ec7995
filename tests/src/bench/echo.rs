//! The bare responder: takes each message and answers on the matching topic with as many octets as the service would.
//! It verifies nothing, decides nothing and writes nothing: what is slower than this is not the client library's fault.

use std::ffi::OsString;
use std::io::Write as _;

use anyhow::{Context as _, bail};
use clap::Parser;
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;

use super::child;
use super::publisher::{QUEUE, connect, current_runtime};

/// What it says when it listens.
pub(super) const READY: &str = "ready";

/// How the responder is started; the benchmark does that.
#[derive(Debug, Parser)]
struct Arguments {
    /// The broker's port.
    #[arg(long)]
    port: u16,
    /// `usage` or `credit`.
    #[arg(long)]
    of: String,
    /// How long an answer is.
    #[arg(long)]
    octets: usize,
    /// Whether the broker keeps answers.
    #[arg(long)]
    retain: bool,
}

pub(super) fn run(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    child::die_with_parent();
    let arguments = Arguments::try_parse_from(args)?;
    current_runtime()?.block_on(respond(&arguments))
}

async fn respond(arguments: &Arguments) -> anyhow::Result<()> {
    let (client, mut events) = connect("bench-echo", arguments.port, u16::MAX);
    let filter = format!("csim/v1/d/+/up/{}", arguments.of);
    client.try_subscribe(filter, QoS::AtLeastOnce)?;
    let answer = vec![0x55_u8; arguments.octets];
    loop {
        match events.poll().await.context("the broker is gone")? {
            Event::Incoming(Packet::Publish(publish)) => {
                let topic = std::str::from_utf8(&publish.topic)?;
                let back = topic.replacen("/up/", "/down/", 1);
                let qos = QoS::AtLeastOnce;
                if client
                    .try_publish(back, qos, arguments.retain, answer.clone())
                    .is_err()
                {
                    bail!("more than {QUEUE} answers wait");
                }
            }
            Event::Incoming(Packet::SubAck(_)) => {
                let mut out = std::io::stdout().lock();
                writeln!(out, "{READY}")?;
                out.flush()?;
            }
            _ => {}
        }
    }
}
