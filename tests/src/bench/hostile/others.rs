//! The other devices: they ask at a steady rate, and say how long it took.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, EventLoop};
use simquota_shared::codec;
use simquota_shared::envelope::seal;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::super::latency::{Asker, answer};
use super::super::publisher::{connect, subscribe};
use super::super::say;
use super::super::stand::Template;
use super::{Asked, GIVEN_UP, INFLIGHT, Shared};

/// Connections of those who ask, and how often each asks.
const ASKERS: usize = 4;
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A request without an answer is sent again, as a device does.
const AGAIN: Duration = Duration::from_secs(10);
/// Outside of an attack it is sent again so soon, to see how soon it is calm again.
const LOOK: Duration = Duration::from_millis(500);

/// The other devices begin to ask.
pub(super) fn ask_all(
    runtime: &Runtime,
    template: &Template,
    port: u16,
    shared: &Arc<Shared>,
) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let others = template.devices.get(1..).unwrap_or_default();
    for (index, devices) in others.chunks(others.len().div_ceil(ASKERS)).enumerate() {
        let askers: Vec<Asker> = devices
            .iter()
            .map(|device| Asker::new(template, device))
            .collect::<anyhow::Result<_>>()?;
        let shared = Arc::clone(shared);
        let task = async move {
            if let Err(error) = ask_in_turns(index, port, askers, &shared).await {
                say(&format!("a device that asks: {error:#}"));
                shared.lost.fetch_add(1, Ordering::AcqRel);
            }
        };
        tasks.spawn_on(task, runtime.handle());
    }
    Ok(tasks)
}

async fn ask_in_turns(
    index: usize,
    port: u16,
    mut askers: Vec<Asker>,
    shared: &Shared,
) -> anyhow::Result<()> {
    let (client, mut events) = connect(&format!("hostile-other-{index}"), port, INFLIGHT);
    let topics: Vec<String> = askers.iter().map(|asker| asker.down.clone()).collect();
    subscribe(&client, &mut events, topics).await?;
    let mut due = Instant::now();
    let count = askers.len();
    for turn in (0..count).cycle() {
        if shared.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        wait_polling(&mut events, due).await?;
        let Some(asker) = askers.get_mut(turn) else {
            return Ok(());
        };
        ask(asker, &client, &mut events, &shared.attacked).await?;
        let asked = Asked {
            due,
            took: due.elapsed(),
        };
        shared
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(asked);
        // A device has one request under way at most: what would have become due meanwhile is left out.
        due = (due + ASK_EVERY).max(Instant::now());
    }
    Ok(())
}

/// Waits, and keeps the connection alive.
async fn wait_polling(events: &mut EventLoop, until: Instant) -> anyhow::Result<()> {
    while Instant::now() < until {
        tokio::select! {
            polled = events.poll() => drop(polled.context("the connection broke")?),
            () = sleep_until(until.into()) => {}
        }
    }
    Ok(())
}

/// Asks until there is an answer.
async fn ask(
    asker: &mut Asker,
    client: &AsyncClient,
    events: &mut EventLoop,
    attacked: &AtomicBool,
) -> anyhow::Result<()> {
    let request = asker.device.update();
    let message = seal(
        &asker.key,
        &asker.device.kid,
        &asker.up,
        &codec::encode(&request)?,
    )?;
    let (began, mut sent) = (Instant::now(), None::<Instant>);
    while began.elapsed() < GIVEN_UP {
        let again = if attacked.load(Ordering::Acquire) {
            AGAIN
        } else {
            LOOK
        };
        if sent.is_none_or(|at| at.elapsed() >= again) {
            client.try_publish(&asker.up, QoS::AtLeastOnce, false, message.clone())?;
            sent = Some(Instant::now());
        }
        // The answer to an earlier request may come twice, since that was sent twice.
        if let Ok(answer) = timeout(LOOK, answer(events, &asker.down)).await
            && asker.check(&request, &answer?).is_ok()
        {
            return Ok(());
        }
    }
    bail!("{} was not answered in {GIVEN_UP:?}", asker.device.id)
}
