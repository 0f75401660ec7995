//! Version skew: peers that write a later version of each message, and what was said once.
//!
//! The agent and the cloud run on brokers of their own, and whatever one says reaches the other as the next version
//! could write it: a higher version, elements behind the last one, in nested arrays too (PROTOCOL.md, 13). So each is
//! the older of the two. That what older ones wrote is still read is what the golden files show.

use std::thread::JoinHandle;

use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use serde_cbor::Value;
use simquota_shared::codec::encode;
use simquota_shared::envelope::{Key, Kid, Received, seal};
use simquota_shared::topic::{Down, Topic, Up};
use simquota_tests::broker::{Broker, EmbeddedBroker};
use simquota_tests::process::LIMIT;

use super::recorded::{self, Said};
use crate::broker::client::{Client, options};
use crate::world::{World, octets, read, steady};

const END: &str = "csim/v1/end-of-the-test";

/// Where arrays that may grow are within a message.
fn nested(topic: &Topic) -> &'static [usize] {
    match topic {
        Topic::Up(_, Up::Register | Up::Credit) => &[8],
        Topic::Down(_, Down::Register) => &[5, 6],
        Topic::Down(_, Down::Credit) => &[10],
        Topic::Down(_, Down::Command) => &[6],
        _ => &[],
    }
}

fn grown(array: &mut Vec<Value>) {
    array.push(Value::Text("what a later version says".into()));
    array.push(Value::Array(vec![Value::Null, Value::from(7)]));
    array.push(Value::Map([(Value::from(1), Value::Bool(true))].into()));
}

/// The message as the next version could write it.
fn later(topic: &Topic, payload: &[u8]) -> Vec<u8> {
    let mut items: Vec<Value> = serde_cbor::from_slice(payload).unwrap();
    items[0] = Value::from(2);
    for at in nested(topic) {
        if let Value::Array(inner) = &mut items[*at] {
            grown(inner);
        }
    }
    grown(&mut items);
    encode(&items).unwrap()
}

/// Carries what a device and the cloud say from one broker to the other, and keeps it as it was said.
struct Bridge {
    thread: JoinHandle<Vec<Said>>,
}

impl Bridge {
    fn start(agents: &dyn Broker, clouds: &dyn Broker, device: &str, kid: Kid, key: Key) -> Self {
        let (ready, subscribed) = std::sync::mpsc::channel();
        let sides = [options(agents, "bridge"), options(clouds, "bridge")];
        let device = device.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let [agents, clouds] = sides;
            runtime.block_on(async {
                let (mut agents, _) = Client::connect_with(agents).await;
                let (mut clouds, _) = Client::connect_with(clouds).await;
                agents.subscribe(&format!("csim/v1/d/{device}/up/+")).await;
                agents
                    .subscribe(&format!("csim/v1/d/{device}/status"))
                    .await;
                agents.subscribe(END).await;
                clouds
                    .subscribe(&format!("csim/v1/d/{device}/down/+"))
                    .await;
                ready.send(()).unwrap();
                let mut said = Vec::new();
                loop {
                    let (event, from_agent) = tokio::select! {
                        event = agents.events.poll() => (event, true),
                        event = clouds.events.poll() => (event, false),
                    };
                    let event = event.expect("the connection broke");
                    let rumqttc::v5::Event::Incoming(Packet::Publish(publish)) = event else {
                        continue;
                    };
                    if publish.topic == END {
                        return said;
                    }
                    let to = if from_agent { &clouds } else { &agents };
                    said.push(carry(to, &publish, &kid, &key));
                }
            })
        });
        subscribed.recv().unwrap();
        Self { thread }
    }

    /// What was said.
    fn end(self, agents: &dyn Broker) -> Vec<Said> {
        let options = options(agents, "bridge-end");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (mut client, _) = Client::connect_with(options).await;
            client.publish(END, false, &["."]).await;
        });
        self.thread.join().unwrap()
    }
}

fn carry(to: &Client, publish: &Publish, kid: &Kid, key: &Key) -> Said {
    let text = std::str::from_utf8(&publish.topic).unwrap();
    let topic: Topic = text.parse().unwrap();
    let received = Received::parse(&publish.payload).unwrap();
    let payload = received.verify(key, text).unwrap();
    let message = seal(key, kid, text, &later(&topic, payload)).unwrap();
    let kept = matches!(topic, Topic::Down(_, Down::Credit) | Topic::Status(_));
    to.send(text, kept, message);
    Said {
        topic,
        payload: payload.to_vec(),
    }
}

#[test]
fn agent_and_cloud_each_live_with_a_later_version_of_the_other() {
    let world = World::start();
    let agents = EmbeddedBroker::start().unwrap();
    let trace = steady(100, 2_000);
    let mut device = world.device("tracker-1", &trace, 10, "40 kB");
    let config = device.folder.join("edge.toml");
    let text = read(&config).replace(
        &format!("port = {}", world.broker.port()),
        &format!("port = {}", agents.port()),
    );
    std::fs::write(&config, text).unwrap();
    let enrolment = read(&device.folder.join("edge.key"));
    let parts: Vec<&str> = enrolment.trim().split(':').collect();
    let key = Key::from_hex(parts[3]).unwrap();
    let bridge = Bridge::start(
        &agents,
        &world.broker,
        &device.id,
        Kid::first(&"spring"),
        key,
    );

    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "1MB"]);
    device.start();
    device.await_status("is granted", |status| status["ceiling"].as_u64() > Some(0));
    world.cloud(&["device", "suspend", &device.id]);
    device.await_status("is suspended", |status| status["suspended"] == true);
    world.cloud(&["device", "resume", &device.id]);
    let process = device.process.as_mut().unwrap();
    let status = process.wait_exit(2 * LIMIT).unwrap();
    assert!(status.success(), "{:#?}", process.tail());
    let shown = world.show(&device);
    assert_eq!(shown["charged"].as_u64(), Some(octets(&trace)), "{shown}");
    assert_eq!(shown["reserved"], 0, "{shown}");
    world.audit();
    let said = bridge.end(&agents);
    recorded::write(&said);
    let up = said.iter().filter(|said| said.is_of_device()).count();
    let down = said.len() - up;
    println!(
        "skew: {up} messages up and {down} down, all of a later version; every octet is charged"
    );
    assert!(up > 10 && down > 10, "{up} up, {down} down");
}
