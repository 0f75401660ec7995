//! Bearer tokens: a key's name, an end, and a MAC under that key. Nobody stores them, and each ends by itself.
//!
//! ```text
//! simquota1.{key}.{generation}.{end, Unix seconds}.{HMAC-SHA-256 as 64 hexadecimal digits}
//! MAC over "csim/v1/http\n{key}/{generation}\n{end}"
//! ```
//!
//! `simquota-cloud token` prints one, from a key file. It allows what the key's role allows, for as long as the key is
//! believed: a revoked key takes its tokens with it. What is authenticated begins with a letter and an envelope's with an
//! array of CBOR, so that neither can stand for the other.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use simquota_shared::envelope::{Key, Kid};
use simquota_shared::ids::KeyId;
use simquota_shared::units::UnixMillis;

const SCHEME: &str = "simquota1";
/// More is no token, and is not looked at.
const TOKEN_MAX: usize = 256;

/// A token as it was written, not believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Under which key.
    pub kid: Kid,
    end_s: u64,
    mac: [u8; 32],
}

fn mac(key: &Key, kid: &Kid, end_s: u64) -> Option<Hmac<Sha256>> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.octets()).ok()?;
    mac.update(format!("csim/v1/http\n{kid}\n{end_s}").as_bytes());
    Some(mac)
}

/// A token under a key, good until `end_s` (Unix seconds).
#[must_use]
pub fn token(key: &Key, kid: &Kid, end_s: u64) -> Option<String> {
    let digits = hex::encode(mac(key, kid, end_s)?.finalize().into_bytes());
    let Kid { name, generation } = kid;
    Some(format!("{SCHEME}.{name}.{generation}.{end_s}.{digits}"))
}

impl Claimed {
    /// Reads a token; `None` for anything else. It says nothing about whether it is genuine.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > TOKEN_MAX {
            return None;
        }
        let mut parts = text.split('.');
        let mut next = || parts.next();
        if next()? != SCHEME {
            return None;
        }
        let name: KeyId = next()?.parse().ok()?;
        let generation: u32 = next()?.parse().ok().filter(|number| *number > 0)?;
        let end_s = next()?.parse().ok()?;
        let mut mac = [0; 32];
        hex::decode_to_slice(next()?, &mut mac).ok()?;
        if next().is_some() {
            return None;
        }
        let kid = Kid {
            name: name.to_string(),
            generation,
        };
        Some(Self { kid, end_s, mac })
    }

    /// Whether the key made it, and it has not ended. Tags are compared in constant time.
    #[must_use]
    pub fn is_good(&self, key: &Key, now: UnixMillis) -> bool {
        let genuine =
            mac(key, &self.kid, self.end_s).is_some_and(|mac| mac.verify_slice(&self.mac).is_ok());
        genuine && now.value() / 1000 < self.end_s
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_is_good_under_its_key_until_its_end_and_as_it_was_written() {
        let (key, other) = (Key::new([1; 32]), Key::new([2; 32]));
        let kid = Kid::first(&"grafana");
        let text = token(&key, &kid, 100).unwrap();
        let claimed = Claimed::parse(&text).unwrap();
        assert_eq!(claimed.kid, kid);
        assert!(claimed.is_good(&key, UnixMillis(99_999)));
        assert!(!claimed.is_good(&key, UnixMillis(100_000)), "it has ended");
        assert!(!claimed.is_good(&other, UnixMillis(0)), "another key");
        for (from, to) in [
            (".100.", ".101."),
            ("grafana.1", "grafana.2"),
            ("grafana", "admin"),
        ] {
            let altered = Claimed::parse(&text.replace(from, to)).unwrap();
            assert!(!altered.is_good(&key, UnixMillis(0)), "{to}");
        }
        for bad in ["", "simquota1", &text.replace("simquota1", "simquota2")] {
            assert_eq!(Claimed::parse(bad), None, "{bad}");
        }
        assert_eq!(Claimed::parse(&format!("{text}.x")), None);
        assert_eq!(Claimed::parse(&text.repeat(9)), None);
    }
}
