//! CBOR, bounded and canonical, or refused before anything is allocated for it.
//!
//! [`decode`] first walks the octets once ([`check`]): size, depth and count are within [`Limits`], every
//! number and length has its shortest form, lengths are definite, text is UTF-8, map keys are in order and
//! differ, there is no tag, no float, no simple value but `false`, `true` and `null`, and nothing follows.
//! Only then does serde see them. Source: RFC 8949, 4.2.1 (core deterministic encoding) and 10 (security).
//!
//! Messages are arrays. [`wire!`](crate::wire) writes a struct as an array of its fields, in order; it reads
//! an array that has more elements than it knows and ignores those, so that fields can be appended.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_cbor::ser::Serializer;

/// The bounds within which octets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Octets in all.
    pub octets: usize,
    /// Arrays and maps within each other.
    pub depth: usize,
    /// Items in all: every number, text, array, map, key.
    pub items: usize,
}

/// The limits of every payload (DESIGN section 4: at most 64 KiB).
pub const PAYLOAD: Limits = Limits {
    octets: 64 * 1024,
    depth: 8,
    items: 64 * 1024,
};

/// Why octets are not a payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More octets than the limit.
    #[error("the payload has {0} octets, more than {1}")]
    Size(usize, usize),
    /// Arrays and maps within each other past the limit.
    #[error("the payload nests deeper than {0} levels")]
    Depth(usize),
    /// Too many items.
    #[error("the payload has more than {0} items")]
    Items(usize),
    /// The octets end within an item.
    #[error("the payload ends within an item")]
    Truncated,
    /// Octets follow the item.
    #[error("{0} octets follow the payload")]
    Trailing(usize),
    /// Well-formed, but not in the one form that is accepted.
    #[error("the payload is not canonical CBOR: {0} at octet {1}")]
    NotCanonical(&'static str, usize),
    /// Canonical CBOR, but not this message.
    #[error("the payload is not this message: {0}")]
    Shape(String),
    /// A message that can't be written: a defect of ours, not of a peer.
    #[error("a message could not be written: {0}")]
    Encode(String),
}

/// What most messages and rows fit in; a longer one only costs another allocation.
const USUAL_OCTETS: usize = 256;

/// Writes a message as canonical CBOR. Of any length: how long a payload may be is the envelope's to say, and
/// the same form is stored and hashed too.
///
/// # Errors
/// [`CodecError::Encode`] when a value has no canonical form: a float, a map whose keys come out of order
/// (as those of a derived `Serialize` do), or more nesting than is ever read back.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let mut octets = Vec::with_capacity(USUAL_OCTETS);
    message
        .serialize(&mut Serializer::new(&mut octets))
        .map_err(|error| CodecError::Encode(error.to_string()))?;
    let form = Limits {
        octets: usize::MAX,
        items: usize::MAX,
        ..PAYLOAD
    };
    // What no reader would accept must fail here, at its author, and not silently at the other end.
    check(&octets, form).map_err(|error| CodecError::Encode(error.to_string()))?;
    Ok(octets)
}

/// Reads a message within [`PAYLOAD`].
///
/// # Errors
/// Every [`CodecError`] but `Encode`; the octets cost at most one walk before they are refused.
pub fn decode<T: DeserializeOwned>(octets: &[u8]) -> Result<T, CodecError> {
    decode_within(octets, PAYLOAD)
}

/// Reads what [`encode`] wrote within other limits than a payload's: rows of a store of our own, for example.
///
/// # Errors
/// As [`decode`].
pub fn decode_within<T: DeserializeOwned>(octets: &[u8], limits: Limits) -> Result<T, CodecError> {
    check(octets, limits)?;
    serde_cbor::from_slice(octets).map_err(|error| CodecError::Shape(clipped(&error.to_string())))
}

/// serde repeats what it found instead, and that may be a text of 64 KiB: it must not fill a log.
fn clipped(why: &str) -> String {
    const SHAPE_MAX: usize = 160;
    why.chars()
        .take(SHAPE_MAX)
        .flat_map(char::escape_debug)
        .collect()
}

/// Walks the octets once, without allocating, and accepts exactly one canonical item.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(octets: &[u8], limits: Limits) -> Result<(), CodecError> {
    if octets.len() > limits.octets {
        return Err(CodecError::Size(octets.len(), limits.octets));
    }
    let mut walk = Walk {
        octets,
        at: 0,
        items_left: limits.items,
        limits,
    };
    walk.item(limits.depth)?;
    match octets.len().checked_sub(walk.at) {
        Some(0) => Ok(()),
        Some(rest) => Err(CodecError::Trailing(rest)),
        None => Err(CodecError::Truncated),
    }
}

struct Walk<'a> {
    octets: &'a [u8],
    at: usize,
    items_left: usize,
    limits: Limits,
}

impl<'a> Walk<'a> {
    fn item(&mut self, depth: usize) -> Result<(), CodecError> {
        self.items_left = self
            .items_left
            .checked_sub(1)
            .ok_or(CodecError::Items(self.limits.items))?;
        let start = self.at;
        let initial = self.take(1)?.first().copied().unwrap_or_default();
        // Most items are small numbers, complete with their first octet.
        if initial < 24 {
            return Ok(());
        }
        let (major, info) = (initial >> 5, initial & 0x1f);
        if major == 7 {
            return match info {
                20..=22 => Ok(()),
                _ => Err(CodecError::NotCanonical(
                    "a float or an unknown simple value",
                    start,
                )),
            };
        }
        let argument = self.argument(info, start)?;
        match major {
            0 | 1 => Ok(()),
            2 => self.take_u64(argument).map(drop),
            3 => {
                let text = self.take_u64(argument)?;
                match std::str::from_utf8(text) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(CodecError::NotCanonical("text that is not UTF-8", start)),
                }
            }
            4 => {
                let inner = depth
                    .checked_sub(1)
                    .ok_or(CodecError::Depth(self.limits.depth))?;
                (0..argument).try_for_each(|_| self.item(inner))
            }
            5 => {
                let inner = depth
                    .checked_sub(1)
                    .ok_or(CodecError::Depth(self.limits.depth))?;
                self.map(argument, inner)
            }
            _ => Err(CodecError::NotCanonical("a tag", start)),
        }
    }

    fn map(&mut self, pairs: u64, depth: usize) -> Result<(), CodecError> {
        let mut previous: &[u8] = &[];
        for _ in 0..pairs {
            let start = self.at;
            self.item(depth)?;
            let key = self.octets.get(start..self.at).unwrap_or_default();
            if key <= previous {
                return Err(CodecError::NotCanonical(
                    "map keys out of order or twice",
                    start,
                ));
            }
            previous = key;
            self.item(depth)?;
        }
        Ok(())
    }

    /// The argument of an item's head, in its shortest form (RFC 8949, 3 and 4.2.1).
    fn argument(&mut self, info: u8, start: usize) -> Result<u64, CodecError> {
        let (width, least) = match info {
            0..=23 => return Ok(u64::from(info)),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            _ => {
                return Err(CodecError::NotCanonical(
                    "a reserved or indefinite length",
                    start,
                ));
            }
        };
        let value = self
            .take(width)?
            .iter()
            .fold(0u64, |value, octet| (value << 8) | u64::from(*octet));
        if value < least {
            return Err(CodecError::NotCanonical(
                "a number longer than it needs to be",
                start,
            ));
        }
        Ok(value)
    }

    fn take_u64(&mut self, count: u64) -> Result<&'a [u8], CodecError> {
        usize::try_from(count)
            .map_err(|_| CodecError::Truncated)
            .and_then(|count| self.take(count))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let end = self.at.checked_add(count).ok_or(CodecError::Truncated)?;
        let taken = self.octets.get(self.at..end).ok_or(CodecError::Truncated)?;
        self.at = end;
        Ok(taken)
    }
}

/// Declares a message: a struct that is written as a CBOR array of its fields, in order.
///
/// With `[version]` the array begins with [`WIRE_VERSION`](crate::WIRE_VERSION); version 0 is refused, a higher
/// one is read as far as it is known. Elements past the last field are ignored.
///
/// Fields after a `;` came later and may be left out: they are `None` in an array that ends before them, and an array
/// ends after the last that is there. So what was written before they came reads, and hashes, as it did.
#[macro_export]
macro_rules! wire {
    (@version version) => { Some($crate::WIRE_VERSION) };
    (@version) => { None::<u64> };
    (
        $(#[$meta:meta])*
        pub struct $name:ident $([$version:ident])? {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)+
            $(; $($(#[$tail_meta:meta])* pub $tail:ident: $tail_type:ty,)+)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)+
            $($($(#[$tail_meta])* pub $tail: Option<$tail_type>,)+)?
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeTuple as _;
                let version: Option<u64> = $crate::wire!(@version $($version)?);
                let fields = [$(stringify!($field)),+].len() + usize::from(version.is_some());
                let tail: &[bool] = &[$($(self.$tail.is_some()),+)?];
                let tail = tail.iter().rposition(|there| *there).map_or(0, |last| last + 1);
                let mut array = serializer.serialize_tuple(fields + tail)?;
                if let Some(version) = version {
                    array.serialize_element(&version)?;
                }
                $(array.serialize_element(&self.$field)?;)+
                $(
                    let mut left = tail;
                    $(
                        if left > 0 {
                            array.serialize_element(&self.$tail)?;
                            left -= 1;
                        }
                    )+
                    let _ = left;
                )?
                array.end()
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("an array of the fields of ", stringify!($name)))
                    }
                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut array: A) -> Result<$name, A::Error> {
                        use serde::de::Error as _;
                        let known: Option<u64> = $crate::wire!(@version $($version)?);
                        if known.is_some() {
                            let version: u64 = array
                                .next_element()?
                                .ok_or_else(|| A::Error::custom("the version is missing"))?;
                            if version == 0 {
                                return Err(A::Error::custom("version 0 does not exist"));
                            }
                        }
                        $(
                            let $field: $type = array
                                .next_element()?
                                .ok_or_else(|| A::Error::custom(concat!(stringify!($field), " is missing")))?;
                        )+
                        $($(
                            let $tail: Option<$tail_type> = array.next_element::<Option<$tail_type>>()?.flatten();
                        )+)?
                        while array.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                        Ok($name { $($field,)+ $($($tail,)+)? })
                    }
                }
                deserializer.deserialize_seq(Fields)
            }
        }
    };
}

/// Declares an enum that stands as an unsigned number on the wire; other numbers are refused.
#[macro_export]
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_meta])* $variant = $number,)+ }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u64(match self { $(Self::$variant => $number,)+ })
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match <u64 as serde::Deserialize>::deserialize(deserializer)? {
                    $($number => Ok(Self::$variant),)+
                    other => Err(serde::de::Error::custom(format_args!(
                        concat!("{} is not a ", stringify!($name)), other
                    ))),
                }
            }
        }
    };
}
