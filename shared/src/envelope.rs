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
//!
//! coset sees only what `frame` let through: it follows counter signatures within protected headers within
//! counter signatures as deep as they go, and 60 KB of those end the process with a stack overflow.

use std::fmt;

use coset::iana::Algorithm;
use coset::{
    CoseMac0, CoseMac0Builder, CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable,
};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

mod key;

pub use key::{BadKey, GENERATIONS_MAX, Key};

use crate::codec::{self, Limits, PAYLOAD};
use crate::ids::{IdError, KeyId};

/// What the envelope adds to a payload, at most: head, protected header with the longest kid, lengths, tag.
pub const OVERHEAD_MAX: usize = 128 + 64;
/// The largest message that is looked at.
pub const MESSAGE_MAX: usize = PAYLOAD.octets + OVERHEAD_MAX;
/// Octets of an HMAC 256/64 tag.
pub const TAG_OCTETS: usize = 8;

/// The protected header: a map of two numbered entries, one of them the kid, which has at most 64 + 1 + 10 octets.
const PROTECTED: Limits = Limits {
    octets: 81,
    depth: 1,
    items: 5,
};
const TAG_MAC0: u8 = 0xc0 | 17;
const TAG_SIGN1: u8 = 0xc0 | 18;

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
    /// A payload that no receiver would look at: a defect of ours.
    #[error("a payload of {0} octets is more than a receiver takes: send it in parts")]
    Payload(usize),
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
        let id: Result<KeyId, IdError> = name.parse();
        id.map_err(|_| EnvelopeError::Kid)?;
        let kid = Self {
            name: name.to_owned(),
            generation: generation.parse().map_err(|_| EnvelopeError::Kid)?,
        };
        // "01" and "+1" parse too: only the one text that we would write ourselves is accepted.
        if kid.generation > 0 && kid.to_string() == text {
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

fn protected(algorithm: Algorithm, kid: &Kid) -> coset::Header {
    HeaderBuilder::new()
        .algorithm(algorithm)
        .key_id(kid.to_string().into_bytes())
        .build()
}

/// What a sender checks before it writes: no receiver would take the message otherwise.
fn sendable(kid: &Kid, payload: &[u8]) -> Result<(), EnvelopeError> {
    if payload.len() > PAYLOAD.octets {
        return Err(EnvelopeError::Payload(payload.len()));
    }
    Kid::parse(kid.to_string().as_bytes()).map(drop)
}

/// Whether a message is `tag([bstr, {}, bstr, bstr])` with a small and flat first one, looked at without
/// allocating anything.
fn frame(message: &[u8], tag: u8) -> Option<()> {
    let [first, 0x84, rest @ ..] = message else {
        return None;
    };
    let (protected, rest) = byte_string(rest)?;
    let [0xa0, rest @ ..] = rest else {
        return None;
    };
    let (_payload, rest) = byte_string(rest)?;
    let (_proof, rest) = byte_string(rest)?;
    let flat = codec::check(protected, PROTECTED).is_ok();
    (*first == tag && rest.is_empty() && flat).then_some(())
}

/// A byte string with a head as short as can be, and what follows it.
fn byte_string(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match octets {
        [head @ 0x40..=0x57, rest @ ..] => (usize::from(head & 0x1f), rest),
        [0x58, a @ 24..=255, rest @ ..] => (usize::from(*a), rest),
        [0x59, a @ 1..=255, b, rest @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), rest),
        // 5a00 01 xx xx is as far as MESSAGE_MAX goes.
        [0x5a, 0, a @ 1..=255, b, c, rest @ ..] => {
            let length = u32::from_be_bytes([0, *a, *b, *c]);
            (usize::try_from(length).ok()?, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// Wraps a payload for one topic under a key.
///
/// # Errors
/// `Payload` when it is too long, `Kid` when no receiver would read the key id; [`EnvelopeError::Encode`], which
/// no input is known to cause.
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
    sendable(kid, payload)?;
    CoseMac0Builder::new()
        .protected(protected(Algorithm::HMAC_256_64, kid))
        .payload(payload.to_vec())
        .create_tag(topic.as_bytes(), |data| truncated_tag(key, data))
        .build()
        .to_tagged_vec()
        .map_err(|_| EnvelopeError::Encode)
}

fn truncated_tag(key: &Key, data: &[u8]) -> Vec<u8> {
    let mut tag = hmac(key.octets(), data).finalize().into_bytes().to_vec();
    tag.truncate(TAG_OCTETS);
    tag
}

fn hmac(key: &[u8], data: &[u8]) -> Hmac<Sha256> {
    let mut mac = match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes a key of any length (RFC 2104)"),
    };
    mac.update(data);
    mac
}

/// The check behind [`Received::verify`], for a tag of any length, so that the COSE working group's cases run
/// through it. Compares in constant time.
///
/// # Errors
/// `Forged`.
#[doc(hidden)]
pub fn verify_mac0(
    mac0: &CoseMac0,
    tag_octets: usize,
    key: &[u8],
    external: &[u8],
) -> Result<(), EnvelopeError> {
    // A truncated tag is a shorter secret: how short is said by the algorithm, never by the sender.
    if mac0.tag.len() != tag_octets {
        return Err(EnvelopeError::Forged);
    }
    mac0.verify_payload_tag(
        external,
        || EnvelopeError::Forged,
        |tag, data| {
            hmac(key, data)
                .verify_truncated_left(tag)
                .map_err(|_| EnvelopeError::Forged)
        },
    )
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
        frame(message, TAG_MAC0).ok_or_else(|| broken.clone())?;
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
        verify_mac0(&self.mac0, TAG_OCTETS, key.octets(), topic.as_bytes())?;
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
/// As [`seal`].
pub fn sign(
    key: &SigningKey,
    kid: &Kid,
    topic: &str,
    payload: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    sendable(kid, payload)?;
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
    frame(message, TAG_SIGN1).ok_or_else(|| broken.clone())?;
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
    // Strict: a key of small order would verify a signature over anything (RFC 8032, 8.9 leaves it to us).
    sign1
        .verify_signature(topic.as_bytes(), |signature, data| {
            Signature::from_slice(signature)
                .and_then(|signature| key.verify_strict(data, &signature))
        })
        .map_err(|_| EnvelopeError::Forged)?;
    Ok((kid, payload))
}
