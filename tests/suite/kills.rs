//! The short forms of `cargo prove`: kills and power cuts at random moments, and not an octet lost or doubled.

use simquota_tests::disk::LoopDisk;
use simquota_tests::missing::missing_part;
use simquota_tests::prove::{WINDOW, campaign, cloud_campaign, edge_campaign};

fn say(line: &str) {
    println!("{line}");
}

#[test]
fn agents_cloud_and_broker_die_twenty_times_each_and_nothing_is_lost_or_doubled() {
    let kills = campaign(20, 4, &mut say);
    assert_eq!(kills.rounds, 20);
    assert!(kills.passed > 0);
    assert_eq!(kills.charged, kills.passed);
}

#[test]
fn the_cloud_loses_nothing_that_it_promised_when_the_power_goes() {
    if let Some(part) = LoopDisk::missing() {
        return missing_part(&part);
    }
    let cuts = cloud_campaign(5, 1, &mut say);
    assert_eq!(cuts.charged, cuts.passed);
}

#[test]
fn a_device_loses_at_most_the_window_when_the_power_goes() {
    if let Some(part) = LoopDisk::missing() {
        return missing_part(&part);
    }
    let cuts = edge_campaign(8, 1, &mut say);
    assert_eq!(cuts.charged + cuts.unaccounted, cuts.passed);
    assert!(cuts.unaccounted_max <= WINDOW, "{cuts:?}");
}
