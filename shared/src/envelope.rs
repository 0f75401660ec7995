//! The envelope of every payload, and the keys behind it.
//!
//! The broker is not trusted to say who sent a message. What one party tells another is a COSE_Mac0
//! (RFC 9052, 6.2; HMAC 256/64, RFC 9053, 3.1) under the sender's key; what the cloud tells many readers is a
//! COSE_Sign1 (RFC 9052, 4.2; Ed25519). The topic is the external data, so a message can't be moved to another.
//!
//! ```text
//! 17([ << {1: 4, 4: kid} >>, {}, payload, tag ])      COSE_Mac0:  alg 4 = HMAC 256/64, tag of 8 octets
//! 18([ << {1: -8, 4: kid} >>, {}, payload, signature ])  COSE_Sign1: alg -8 = EdDSA
//! ```
//!
//! Protected are exactly `alg` and `kid`, the unprotected map is empty, the encoding is the canonical one:
//! anything else is refused. The structure is coset's, the algorithms are RustCrypto's.

use std::fmt;

use coset::iana::Algorithm;
use coset::{
    CoseMac0, CoseMac0Builder, CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable,
};
use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::codec::PAYLOAD;
use crate::ids::{DeviceId, IdError};

/// What the envelope adds to a payload, at most: head, protected header with the longest kid, lengths, tag.
pub const OVERHEAD_MAX: usize = 128 + 64;
/// The largest message that is looked at.
pub const MESSAGE_MAX: usize = PAYLOAD.octets + OVERHEAD_MAX;
/// Octets of an HMAC 256/64 tag.
pub const TAG_OCTETS: usize = 8;

/// Why a message is not accepted. The text never holds a key or a payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// More octets than [`MESSAGE_MAX`].
    #[error("the message has {0} octets, more than {MESSAGE_MAX}")]
    Size(usize),
    /// Not COSE, or not in the one form that is accepted.
    #[error("the message is not a canonical {0} with alg and kid protected and nothing else")]
    Structure(&'static str),
    /// The key id is not `name/generation`.
    #[error("the key id is not 'name/generation'")]
    Kid,
    /// The tag or the signature does not fit key, topic and payload.
    #[error("the tag does not fit this key, topic and payload")]
    Forged,
    /// A message that can't be written: a defect of ours.
    #[error("an envelope could not be written")]
    Encode,
}

/// Which key: the name of an enrolment key or of a manager's key, and its generation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kid {
    /// An enrolment id for a device, a key id for a manager, a node id for the cloud.
    pub name: String,
    /// 1, and one more for each rotation.
    pub generation: u32,
}

impl Kid {
    /// A key id of the first generation.
    #[must_use]
    pub fn first(name: &impl fmt::Display) -> Self {
        Self {
            name: name.to_string(),
            generation: 1,
        }
    }

    fn parse(octets: &[u8]) -> Result<Self, EnvelopeError> {
        let text = std::str::from_utf8(octets).map_err(|_| EnvelopeError::Kid)?;
        let (name, generation) = text.split_once('/').ok_or(EnvelopeError::Kid)?;
        let id: Result<crate::ids::KeyId, IdError> = name.parse();
        id.map_err(|_| EnvelopeError::Kid)?;
        let kid = Self {
            name: name.to_owned(),
            generation: generation.parse().map_err(|_| EnvelopeError::Kid)?,
        };
        // "01" and "+1" parse too: only the one text that we would write ourselves is accepted.
        if kid.to_string() == text {
            Ok(kid)
        } else {
            Err(EnvelopeError::Kid)
        }
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.generation)
    }
}

/// A symmetric key of 256 bits. It is wiped when dropped and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Zeroizing<[u8; 32]>);

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

    fn mac(&self, data: &[u8]) -> Hmac<Sha256> {
        let mut mac = match Hmac::<Sha256>::new_from_slice(self.0.as_slice()) {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes a key of any length (RFC 2104)"),
        };
        mac.update(data);
        mac
    }
}

fn protected(algorithm: Algorithm, kid: &Kid) -> coset::Header {
    HeaderBuilder::new()
        .algorithm(algorithm)
        .key_id(kid.to_string().into_bytes())
        .build()
}

/// Wraps a payload for one topic under a key.
///
/// # Errors
/// [`EnvelopeError::Encode`], which no input is known to cause.
///
/// ```
/// use simquota_shared::envelope::{seal, Key, Kid, Received};
/// let key = Key::new([7; 32]);
/// let kid = Kid { name: "batch".into(), generation: 1 };
/// let message = seal(&key, &kid, "csim/v1/d/a/up/usage", &[0x01]).unwrap();
/// let received = Received::parse(&message).unwrap();
/// assert_eq!(received.kid, kid);
/// assert_eq!(received.verify(&key, "csim/v1/d/a/up/usage").unwrap(), &[0x01]);
/// assert!(received.verify(&key, "csim/v1/d/b/up/usage").is_err());
/// ```
pub fn seal(key: &Key, kid: &Kid, topic: &str, payload: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    CoseMac0Builder::new()
        .protected(protected(Algorithm::HMAC_256_64, kid))
        .payload(payload.to_vec())
        .create_tag(topic.as_bytes(), |data| truncated_tag(key, data))
        .build()
        .to_tagged_vec()
        .map_err(|_| EnvelopeError::Encode)
}

fn truncated_tag(key: &Key, data: &[u8]) -> Vec<u8> {
    let mut tag = key.mac(data).finalize().into_bytes().to_vec();
    tag.truncate(TAG_OCTETS);
    tag
}

/// A message whose structure holds and whose sender is not proven yet.
#[derive(Clone, Debug)]
pub struct Received {
    /// The key that the message claims.
    pub kid: Kid,
    mac0: CoseMac0,
}

impl Received {
    /// Reads the structure only: bounded, canonical, alg and kid protected, nothing unprotected.
    ///
    /// # Errors
    /// `Size`, `Structure` or `Kid`.
    pub fn parse(message: &[u8]) -> Result<Self, EnvelopeError> {
        if message.len() > MESSAGE_MAX {
            return Err(EnvelopeError::Size(message.len()));
        }
        let broken = EnvelopeError::Structure("COSE_Mac0");
        let mac0 = CoseMac0::from_tagged_slice(message).map_err(|_| broken.clone())?;
        let kid = Kid::parse(&mac0.protected.header.key_id)?;
        // Whatever else a parser tolerates, there is one spelling of these four fields, and it is ours.
        let canonical = CoseMac0Builder::new()
            .protected(protected(Algorithm::HMAC_256_64, &kid))
            .payload(mac0.payload.clone().ok_or_else(|| broken.clone())?)
            .tag(mac0.tag.clone())
            .build()
            .to_tagged_vec()
            .map_err(|_| broken.clone())?;
        if canonical != message || mac0.tag.len() != TAG_OCTETS {
            return Err(broken);
        }
        Ok(Self { kid, mac0 })
    }

    /// The payload, once the key and the topic are shown to fit. Compares in constant time.
    ///
    /// # Errors
    /// `Forged`.
    pub fn verify(&self, key: &Key, topic: &str) -> Result<&[u8], EnvelopeError> {
        self.mac0.verify_payload_tag(
            topic.as_bytes(),
            || EnvelopeError::Forged,
            |tag, data| {
                key.mac(data)
                    .verify_truncated_left(tag)
                    .map_err(|_| EnvelopeError::Forged)
            },
        )?;
        self.mac0.payload.as_deref().ok_or(EnvelopeError::Forged)
    }

    /// The payload as claimed: for people who look at refused messages, never for a decision.
    #[must_use]
    pub fn unverified(&self) -> &[u8] {
        self.mac0.payload.as_deref().unwrap_or_default()
    }
}

/// Wraps a payload that many may read and verify.
///
/// # Errors
/// [`EnvelopeError::Encode`], which no input is known to cause.
pub fn sign(
    key: &SigningKey,
    kid: &Kid,
    topic: &str,
    payload: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    CoseSign1Builder::new()
        .protected(protected(Algorithm::EdDSA, kid))
        .payload(payload.to_vec())
        .create_signature(topic.as_bytes(), |data| key.sign(data).to_bytes().to_vec())
        .build()
        .to_tagged_vec()
        .map_err(|_| EnvelopeError::Encode)
}

/// Reads and verifies what [`sign`] wrote.
///
/// # Errors
/// `Size`, `Structure`, `Kid` or `Forged`.
pub fn open_signed(
    key: &VerifyingKey,
    topic: &str,
    message: &[u8],
) -> Result<(Kid, Vec<u8>), EnvelopeError> {
    if message.len() > MESSAGE_MAX {
        return Err(EnvelopeError::Size(message.len()));
    }
    let broken = EnvelopeError::Structure("COSE_Sign1");
    let sign1 = CoseSign1::from_tagged_slice(message).map_err(|_| broken.clone())?;
    let kid = Kid::parse(&sign1.protected.header.key_id)?;
    let payload = sign1.payload.clone().ok_or_else(|| broken.clone())?;
    let canonical = CoseSign1Builder::new()
        .protected(protected(Algorithm::EdDSA, &kid))
        .payload(payload.clone())
        .signature(sign1.signature.clone())
        .build()
        .to_tagged_vec()
        .map_err(|_| broken.clone())?;
    if canonical != message {
        return Err(broken);
    }
    sign1
        .verify_signature(topic.as_bytes(), |signature, data| {
            Signature::from_slice(signature).and_then(|signature| key.verify(data, &signature))
        })
        .map_err(|_| EnvelopeError::Forged)?;
    Ok((kid, payload))
}
