//! The SIM's interface gets another name, or is replaced, while traffic flows: it stays metered, and it stays fenced.
//! Real packets between two network namespaces; what is metered is held against the far end's own link counter.

use std::time::Duration;

use simquota_tests::netns::{Family, Flood, SIM, Site, Wanted, number};
use simquota_tests::process::{LIMIT, await_fact};

/// Upwards, at five megabytes a second at most, into a socket that is kept.
fn load(site: &Site) -> (Flood, std::net::UdpSocket) {
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    let to = far.local_addr().unwrap();
    (Flood::paced(near, to, Duration::from_millis(2)), far)
}

/// Waits until so much is used, and is no more than may be.
fn used_up_to(site: &Site, bought: u64) {
    let status = await_fact(
        2 * LIMIT,
        "all of it used, but for less than a packet",
        || {
            let status = site.device.status()?;
            (number(&status, "used") > bought - 1_500).then_some(status)
        },
    )
    .unwrap_or_else(|error| site.fail(&error));
    // The agent's own goes on, on its allowance.
    assert!(
        number(&status, "used") <= number(&status, "stop"),
        "{status}"
    );
}

#[test]
fn an_interface_with_another_name_stays_metered_and_stopped() {
    let wanted = Wanted {
        volume: "2MB",
        ..Wanted::default()
    };
    let Some(mut site) = Site::start("tracker-y", &wanted) else {
        return;
    };
    let traffic = load(&site);
    site.device.await_status("is in the middle", |status| {
        status["used"].as_u64() > Some(500_000)
    });
    let rename = |site: &Site, from: &str, to: &str| {
        let device = &site.lab.device;
        // Not every kernel renames an interface that is up.
        if device.ip(&format!("link set {from} name {to}")).is_err() {
            device.ip(&format!("link set {from} down")).unwrap();
            device.ip(&format!("link set {from} name {to}")).unwrap();
            device.ip(&format!("link set {to} up")).unwrap();
        }
    };
    rename(&site, SIM, "other0");
    used_up_to(&site, 2_000_000);
    // Somebody who starts only now finds it as well.
    site.kill9();
    site.buy("2MB");
    site.restart_agent();
    used_up_to(&site, 4_000_000);
    rename(&site, "other0", SIM);
    site.buy("1MB");
    used_up_to(&site, 5_000_000);
    drop(traffic);
    let status = site.settled();
    println!(
        "under three names: {} metered, the far end counts {}",
        status["used"],
        site.carried()
    );
    site.world.audit();
}

#[test]
fn a_replaced_interface_is_metered_to_the_octet_and_never_passes_by_the_gate() {
    let wanted = Wanted {
        volume: "6MB",
        want: "2 MB",
        replaceable: true,
        ..Wanted::default()
    };
    let Some(mut site) = Site::start("tracker-z", &wanted) else {
        return;
    };
    let traffic = load(&site);
    for round in 1..=4_u64 {
        site.device.await_status("goes on", |status| {
            status["used"].as_u64() > Some(round * 500_000) && status["gate_open"] == true
        });
        site.lab.replace().unwrap();
    }
    site.device.await_status("goes on", |status| {
        status["used"].as_u64() > Some(2_500_000) && status["gate_open"] == true
    });
    drop(traffic);
    let status = site.settled();
    println!(
        "over five interfaces: {} metered, the far end counts {}",
        status["used"],
        site.carried()
    );
    // Nobody is there who could tell the kernel about the next one, nor hear the last word of the one before.
    let traffic = load(&site);
    let further = number(&status, "used") + 200_000;
    site.device.await_status("goes on", |status| {
        status["used"].as_u64() > Some(further) && status["gate_open"] == true
    });
    site.kill9();
    let stored = site.device.stored();
    let (armed, used) = (number(&stored, "armed"), number(&stored, "used"));
    println!("killed at {used} octets stored, {armed} armed");
    site.lab.replace().unwrap();
    let mut last = 0;
    await_fact(LIMIT, "silence", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = site.passed();
        (std::mem::replace(&mut last, now) == now).then_some(())
    })
    .unwrap();
    assert!(last <= armed, "{last} passed, {armed} were armed");
    // Traffic may use all of it up before anybody looks.
    site.restart_agent();
    used_up_to(&site, 6_000_000);
    drop(traffic);
    let lost = await_fact(LIMIT, "all metered that could be", || {
        let status = site.device.status()?;
        let lost = site.carried() - number(&status, "used");
        // The kernel ends the dead agent's connection: packets of control, which no window is for.
        (lost <= armed - used + 1_500).then_some(lost)
    })
    .unwrap_or_else(|error| site.fail(&error));
    println!(
        "the death between two interfaces took {lost} octets of {} in the window",
        armed - used
    );
    assert!(site.passed() <= 6_000_000 + lost);
    site.world.audit();
}
