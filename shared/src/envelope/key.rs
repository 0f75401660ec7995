//! Symmetric keys: a batch's enrolment key, the device keys derived from it, managers' keys.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::ids::DeviceId;

/// A device's key has at most so many generations: what a stranger can make anybody derive is bounded by it.
pub const GENERATIONS_MAX: u32 = 64;

/// A symmetric key of 256 bits. It is wiped when dropped and never shown.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

impl PartialEq for Key {
    /// Looks at every octet, wherever the first difference is: how long it takes tells nothing.
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(other.0.iter());
        pairs.fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A text that is not a key of 64 hexadecimal digits. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits: check the file that holds it")]
pub struct BadKey;

impl Key {
    /// A key from its octets, which must come from a cryptographic source.
    #[must_use]
    pub fn new(octets: [u8; 32]) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`BadKey`] for anything else.
    pub fn from_hex(text: &str) -> Result<Self, BadKey> {
        let mut octets = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(text.trim(), octets.as_mut_slice()).map_err(|_| BadKey)?;
        Ok(Self(octets))
    }

    /// The key as hexadecimal digits, for a key file and nothing else.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0.as_slice()))
    }

    /// The key as octets, for a cipher of another kind, such as a signing key's seed.
    #[must_use]
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key of one device, from the enrolment key of its batch: HKDF-SHA-256 (RFC 5869) without salt, with
    /// `csim/v1/device/{device}/{generation}` as info. The cloud stores no key per device; the device holds
    /// only this one, and the batch's never leaves the cloud.
    #[must_use]
    pub fn for_device(&self, device: &DeviceId, generation: u32) -> Self {
        self.derive(&format!("csim/v1/device/{device}/{generation}"))
    }

    /// A device's key of the next generation, from that of the one before: HKDF-SHA-256 without salt, with
    /// `csim/v1/rotate/{device}/{generation}` as info. Both sides derive it and it never travels. Whoever has a key
    /// can derive those after it: a rotation bounds how long one key is in use, it does not shut anybody out.
    #[must_use]
    pub fn next_generation(&self, device: &DeviceId, generation: u32) -> Self {
        self.derive(&format!("csim/v1/rotate/{device}/{generation}"))
    }

    /// The device's password towards the broker: HKDF with info `mqtt`, as hexadecimal digits.
    #[must_use]
    pub fn mqtt_password(&self) -> Zeroizing<String> {
        self.derive("mqtt").to_hex()
    }

    fn derive(&self, info: &str) -> Self {
        let mut okm = Zeroizing::new([0u8; 32]);
        let hkdf = Hkdf::<Sha256>::new(None, self.0.as_slice());
        // 32 octets are far below the limit of 255 x 32, the only error that expand has (RFC 5869, 2.3).
        if hkdf.expand(info.as_bytes(), okm.as_mut_slice()).is_err() {
            unreachable!("32 octets are within HKDF's limit")
        }
        Self(okm)
    }
}
