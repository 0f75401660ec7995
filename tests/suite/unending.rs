//! Senders that never rest, at the gate in the kernel: what it refuses must not count, or what is granted is held up.
//! Real packets between two network namespaces.

use std::time::Duration;

use simquota_tests::netns::{Family, Flood, Site, Wanted, number};
use simquota_tests::process::{LIMIT, await_fact};

const BOUGHT: u64 = 2_000_000;

/// Uplink, as fast as the device can: what is refused never reaches the link.
fn from_the_device(family: Family) {
    let wanted = Wanted {
        volume: "2MB",
        family,
        ..Wanted::default()
    };
    let Some(site) = Site::start("tracker-w", &wanted) else {
        return;
    };
    let (near, far) = site.lab.sockets(family).unwrap();
    let flood = Flood::unending(near, far.local_addr().unwrap());
    let mut bought = BOUGHT;
    for round in 0..3 {
        // Uplink the link carries what passed, and the agent's own.
        let used = await_fact(
            2 * LIMIT,
            "all of it used, but for less than a packet",
            || {
                let used = number(&site.device.status()?, "used");
                (used > bought - 1_500).then_some(used)
            },
        )
        .unwrap_or_else(|error| site.fail(&error));
        let passed = site.passed();
        println!("{family:?}: {passed} passed, {used} used of {bought}");
        assert!(passed <= bought, "{passed} passed, {bought} bought");
        if round < 2 {
            bought += BOUGHT;
            site.buy("2MB");
            let before = passed + BOUGHT / 2;
            await_fact(LIMIT, "the top-up to release it", || {
                (site.passed() > before).then_some(())
            })
            .unwrap_or_else(|error| site.fail(&error));
        }
    }
    drop(flood);
    let status = site.settled();
    assert!(site.passed() <= bought, "{status}");
    site.world.audit();
}

/// Downlink the link has counted what the gate refuses: it is used, and it is no reason to let more pass.
fn from_the_far_end(family: Family) {
    let wanted = Wanted {
        volume: "2MB",
        family,
        ..Wanted::default()
    };
    let Some(site) = Site::start("tracker-v", &wanted) else {
        return;
    };
    let (near, far) = site.lab.sockets(family).unwrap();
    let flood = Flood::paced(far, near.local_addr().unwrap(), Duration::from_millis(10));
    site.used_up();
    let passed = site.passed();
    println!(
        "{family:?}: {passed} passed of {BOUGHT}, the link has {}",
        site.carried()
    );
    assert!(passed <= BOUGHT, "{passed} passed, {BOUGHT} bought");
    site.buy("500MB");
    await_fact(LIMIT, "the top-up to release it", || {
        (site.passed() > passed + BOUGHT).then_some(())
    })
    .unwrap_or_else(|error| site.fail(&error));
    drop(flood);
    let _ = site.settled();
    site.world.audit();
}

/// Packets through a grant of 5 MB whose agent dies on the way: never beyond its window, and what the link delivered after
/// the cut is booked.
fn without_an_agent(down: bool) {
    const GRANT: u64 = 5_000_000;
    let wanted = Wanted {
        volume: "5MB",
        want: "5 MB",
        ..Wanted::default()
    };
    let Some(mut site) = Site::start("tracker-x", &wanted) else {
        return;
    };
    let (near, far) = site.lab.sockets(Family::V4).unwrap();
    let (from, to) = if down { (far, near) } else { (near, far) };
    let flood = Flood::paced(from, to.local_addr().unwrap(), Duration::from_millis(2));
    site.device.await_status("is in the middle", |status| {
        status["used"].as_u64() > Some(1_500_000)
    });
    site.kill9();
    let armed = number(&site.device.stored(), "armed");
    let mut last = site.passed();
    await_fact(LIMIT, "silence", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = site.passed();
        (std::mem::replace(&mut last, now) == now).then_some(())
    })
    .unwrap_or_else(|error| site.fail(&error));
    assert!(last <= armed, "{last} passed, {armed} were armed");
    // What was delivered and dropped meanwhile is used. So there may be nothing left.
    site.restart_agent();
    await_fact(2 * LIMIT, "the end of the grant", || {
        let status = site.device.status()?;
        (number(&status, "used") > GRANT - 1_500).then_some(())
    })
    .unwrap_or_else(|error| site.fail(&error));
    drop(flood);
    let passed = site.passed();
    assert!(passed <= GRANT, "{passed} passed a grant of {GRANT}");
    let _ = site.settled();
    let used = site.booked();
    println!(
        "down {down}: killed at {armed} armed, {passed} passed a grant of {GRANT}; {used} booked, {} of them overrun",
        used.saturating_sub(GRANT)
    );
}

#[test]
fn packets_stop_at_the_window_of_a_dead_agent_and_at_the_grant_of_the_next() {
    for down in [false, true] {
        without_an_agent(down);
    }
}

#[test]
fn a_device_that_never_rests_uses_up_what_it_has_and_goes_on_with_a_top_up() {
    from_the_device(Family::V4);
}

#[test]
fn a_device_that_never_rests_is_held_to_the_same_over_ipv6() {
    from_the_device(Family::V6);
}

#[test]
fn a_far_end_that_never_rests_gets_no_octet_through_beyond_the_grant() {
    from_the_far_end(Family::V4);
}

#[test]
fn a_far_end_that_never_rests_is_held_to_the_same_over_ipv6() {
    from_the_far_end(Family::V6);
}
