//! What a backup or a rolled-back flash has forgotten, and how the two sides find to each other again.

use simquota_shared::message::{Body, RegisterAnswer, Status};

use super::super::Seal;
use super::*;

fn register(name: &str, iccid: Option<&Iccid>) -> RegisterRequest {
    RegisterRequest {
        epoch: Epoch(9),
        boot: Boot(1),
        serial: Text::clipped(name),
        model: Text::clipped("m"),
        firmware: Text::clipped("1"),
        capabilities: Vec::new(),
        iccid: iccid.cloned(),
        closes: None,
    }
}

fn under(generation: u32) -> Kid {
    Kid {
        generation,
        ..Kid::first(&"spring")
    }
}

impl World {
    /// A device says something under a generation of its key.
    fn hears(&mut self, id: &DeviceId, kid: &Kid, request: DeviceRequest) -> Verdict {
        self.turn(|turn| turn.device(id, kid, request).unwrap())
    }
}

fn reason(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Refused(refusal) => refusal.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_whose_sim_was_given_away_is_given_a_free_one_however_often_it_asks() {
    let mut world = World::new();
    let first = world.device("bus-1");
    let id: DeviceId = "bus-2".parse().unwrap();
    let request = register("bus-2", Some(&first.iccid));
    let answered = |world: &World| -> RegisterAnswer {
        let topic = Topic::Down(id.clone(), Down::Register);
        let found = world.said.iter().find(|said| said.topic == topic).unwrap();
        codec::decode(&found.payload).unwrap()
    };
    let kid = under(1);
    let verdict = world.hears(&id, &kid, DeviceRequest::Register(request.clone()));
    assert_eq!(reason(&verdict), "second-sim", "an operator learns of it");
    let sim = answered(&world).sim.unwrap();
    assert_ne!(sim.iccid, first.iccid);
    let verdict = world.hears(&id, &kid, DeviceRequest::Register(request));
    assert_eq!(reason(&verdict), "second-sim");
    let again = answered(&world);
    assert_eq!((again.code, again.sim), (Code::SUCCESS, Some(sim)));
}

#[test]
fn a_device_that_forgot_its_rotation_is_told_again_under_the_key_it_has() {
    let mut world = World::new();
    let bus = world.device("bus-1");
    let status = |epoch: u64| {
        DeviceRequest::Status(Status {
            epoch: Epoch(epoch),
            boot: Boot(1),
            connection: 1,
            online: true,
            channel: None,
            agent: Text::clipped("agent"),
            backlog: 0,
        })
    };
    world.hears(&bus.id, &under(5), status(3));
    let generation = |world: &World| world.ledger.devices[&bus.id].generation;
    assert_eq!(generation(&world), 1, "of a life that is over");
    world.hears(&bus.id, &under(3), status(7));
    assert_eq!(generation(&world), 3);
    for _ in 0..2 {
        let verdict = world.hears(&bus.id, &under(1), status(7));
        assert_eq!(reason(&verdict), "old-generation");
        let told = world.told(&bus);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].body, Body::Rotate(3));
        let seal = Seal::Mac(under(1));
        assert!(world.said.iter().all(|said| said.seal == seal));
    }
    assert_eq!(world.ledger.devices[&bus.id].pending.len(), 1, "one order");
}
