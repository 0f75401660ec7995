//! A device made by hand, and the service that it speaks with: each message one by one.

use std::fs;

use simquota_shared::ids::{Iccid, Text, ZoneId};
use simquota_shared::message::{
    CreditAnswer, CreditRequest, Kind, Reason, RegisterAnswer, RegisterRequest, UsageAck,
    UsageBatch,
};
use simquota_shared::topic::{Down, Up};
use simquota_shared::units::{Boot, Epoch, Octets, RequestNumber, Seq};

use crate::broker::client::Client;
use crate::hand::{Hand, answer};
use crate::world::{World, read};

const EPOCH: Epoch = Epoch(5);
/// One device of a fleet, with what it said so far.
pub(crate) struct Flow {
    pub(crate) world: World,
    pub(crate) hand: Hand,
    pub(crate) client: Client,
    iccid: Iccid,
    number: u64,
    seq: u64,
    pub(crate) used: u64,
    pub(crate) zone: ZoneId,
}

impl Flow {
    /// The service, and a device that has registered.
    pub(crate) async fn start() -> Self {
        Self::within(World::start()).await
    }

    /// The same, with more in the cloud's `[grant]` and `[policy]`.
    pub(crate) async fn start_with(grant: &str, policy: &str) -> Self {
        let mut world = World::start();
        let config = world.folder.path().join("cloud.toml");
        let mut text = read(&config);
        if grant.contains("target_s") {
            text = text.replace("target_s = 0\n", "");
        }
        let text = text
            .replace("[grant]\n", &format!("[grant]\n{grant}"))
            .replace("[policy]\n", &format!("[policy]\n{policy}"));
        fs::write(&config, text).unwrap();
        world.cloud.as_mut().unwrap().kill9().unwrap();
        world.start_cloud();
        Self::within(world).await
    }

    async fn within(world: World) -> Self {
        let hand = Hand::of(&world.device("flow-1", "0,0,0\n", 1, "1 MB"));
        let (mut client, _) = Client::connect(&world.broker, "flow").await;
        client.subscribe("csim/v1/d/flow-1/down/+").await;
        let request = RegisterRequest {
            epoch: EPOCH,
            boot: Boot(1),
            serial: Text::clipped("s-1"),
            model: Text::clipped("hand"),
            firmware: Text::clipped("1"),
            capabilities: Vec::new(),
            iccid: None,
            closes: None,
        };
        client.send(
            &hand.up(Up::Register),
            false,
            hand.sealed(Up::Register, &request),
        );
        let (registered, _): (RegisterAnswer, _) = answer(&mut client, &hand, Down::Register).await;
        Self {
            iccid: registered.sim.unwrap().iccid,
            world,
            hand,
            client,
            number: 0,
            seq: 0,
            used: 0,
            zone: ZoneId::home(),
        }
    }

    /// A credit request and its answer: a CCR and its CCA.
    pub(crate) async fn ccr(&mut self, kind: Kind, want: u64, reason: Reason) -> CreditAnswer {
        self.number += 1;
        let request = CreditRequest {
            epoch: EPOCH,
            number: RequestNumber(self.number),
            kind,
            used: Octets(self.used),
            want: Octets(want),
            reason,
            zone: self.zone.clone(),
            held: None,
        };
        let octets = self.hand.sealed(Up::Credit, &request);
        self.client.send(&self.hand.up(Up::Credit), false, octets);
        let (found, _): (CreditAnswer, _) =
            answer(&mut self.client, &self.hand, Down::Credit).await;
        assert_eq!(found.number, request.number, "it answers this request");
        found
    }

    /// Reports octets: a Used-Service-Unit.
    pub(crate) async fn uses(&mut self, octets: u64) {
        self.seq += 1;
        self.used += octets;
        let batch = UsageBatch {
            epoch: EPOCH,
            boot: Boot(1),
            iccid: self.iccid.clone(),
            zone: self.zone.clone(),
            first: Seq(self.seq),
            clock: 0,
            t0: 5,
            interval_s: 60,
            total: Octets(self.used),
            dt: Vec::new(),
            up: vec![0],
            down: vec![octets],
            own: Vec::new(),
            flags: Vec::new(),
            spans: Vec::new(),
            unsure: Vec::new(),
        };
        let octets = self.hand.sealed(Up::Usage, &batch);
        self.client.send(&self.hand.up(Up::Usage), false, octets);
        let (ack, _): (UsageAck, _) = answer(&mut self.client, &self.hand, Down::Usage).await;
        assert_eq!((ack.mark, ack.total), (Seq(self.seq), Octets(self.used)));
    }

    /// Buys for the device.
    pub(crate) fn buys(&self, package: &str, volume: &str) {
        self.world.cloud(&[
            "package",
            "buy",
            "--device",
            "flow-1",
            "--fleet",
            "buses",
            "--volume",
            volume,
            "--package",
            package,
        ]);
    }

    /// Available, reserved, used, credited of a package.
    pub(crate) fn balance(&self, package: &str) -> (u64, u64, u64, u64) {
        let rows = self
            .world
            .cloud(&["package", "list", "--fleet", "buses"])
            .remove(0);
        let row = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["package"] == package)
            .unwrap()
            .clone();
        let of = |name: &str| row[name].as_u64().unwrap();
        (of("available"), of("reserved"), of("used"), of("credited"))
    }
}
