//! Key derivation against values that another implementation of HMAC computed (RFC 5869 by hand, in Python).

use simquota_shared::envelope::{BadKey, Key, Kid, Received, seal};
use simquota_shared::ids::DeviceId;

/// Octets 0, 1, … 31.
fn enrolment() -> Key {
    Key::from_hex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f").unwrap()
}

/// Device, generation, its key, its password.
const DERIVED: [(&str, u32, &str, &str); 4] = [
    (
        "a",
        1,
        "16c2263c95e896a4299851e1eaa2e5f743ce7590579350eb69db5fb862c29924",
        "f9322bafb9202e7de0ed9fd34adddaeecf7d545e96e7a9f93cc6f8e912f5cbe2",
    ),
    (
        "a",
        2,
        "d98c41df50c4f2484b9dad1380a41bc883c786f782f13de72d2cf27e57301139",
        "1037b5c944abd35c820b06a10b5f90623d51d412bcec2e3dedacede1ffccc29b",
    ),
    (
        "vm-17",
        1,
        "2ab9a0b3f94c0b0fb98f022198a479213cd5f6aaff071f59a3a609b969ab327f",
        "32785739d23efa707fbc4861eec870e07e8a67850454da8ffbe9d2eda6d66f44",
    ),
    (
        "b",
        1,
        "e7bc6c939f977059d8b70d767f04326df1f1cbbc4a24c7f5f6297b8405395d89",
        "40537d21dba7ffdefcec2160552cecfdb62b7613b8ca7515a26ebd74c23152f3",
    ),
];

#[test]
fn device_keys_and_passwords_have_these_values() {
    for (device, generation, key, password) in DERIVED {
        let device: DeviceId = device.parse().unwrap();
        let derived = enrolment().for_device(&device, generation);
        assert_eq!(derived.to_hex().as_str(), key);
        assert_eq!(derived.mqtt_password().as_str(), password);
    }
}

#[test]
fn no_two_derived_values_are_equal() {
    let mut all: Vec<&str> = DERIVED.iter().flat_map(|row| [row.2, row.3]).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 2 * DERIVED.len());
}

#[test]
fn a_sealed_message_has_these_octets() {
    let key = enrolment().for_device(&"vm-17".parse().unwrap(), 1);
    let message = seal(
        &key,
        &Kid::first(&"batch"),
        "csim/v1/d/vm-17/up/usage",
        &[0x82, 0x01, 0x18, 0x2a],
    )
    .unwrap();
    assert_eq!(
        hex::encode(&message),
        "d1844ca20104044762617463682f31a0448201182a485fe30c1e727cb735"
    );
    let received = Received::parse(&message).unwrap();
    let opened = received.verify(&key, "csim/v1/d/vm-17/up/usage").unwrap();
    assert_eq!(opened, [0x82, 0x01, 0x18, 0x2a]);
}

#[test]
fn keys_are_equal_only_when_every_octet_is() {
    let key = Key::new([9; 32]);
    assert_eq!(key, key.clone());
    for at in 0..32 {
        let mut other = [9; 32];
        other[at] ^= 0x80;
        assert_ne!(key, Key::new(other), "octet {at}");
    }
}

#[test]
fn a_key_is_never_shown() {
    let key = Key::new([0xab; 32]);
    assert_eq!(format!("{key:?}"), "Key(…)");
    assert_eq!(
        Key::from_hex(&format!(" {}\n", key.to_hex().as_str())).unwrap(),
        key
    );
    for bad in [
        "",
        "00",
        "zz",
        &"ab".repeat(31),
        &"ab".repeat(33),
        &"ag".repeat(32),
    ] {
        assert_eq!(Key::from_hex(bad), Err(BadKey));
    }
    assert!(!BadKey.to_string().contains("ab"));
}
