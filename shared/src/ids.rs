//! Names that may stand in a topic. The parser is the only constructor, so no `/`, `+`, `#` or dot gets in.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest id, in octets.
pub const ID_MAX: usize = 64;
/// The longest free text in a message, in octets.
pub const TEXT_MAX: usize = 128;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing, or more than [`ID_MAX`] octets.
    #[error("an id has 1 to {ID_MAX} characters, this one has {0}: shorten it")]
    Length(usize),
    /// A character other than `a-z`, `0-9` and `-`.
    #[error("an id has only a-z, 0-9 and '-', this one has {0:?}: rename it")]
    Character(char),
    /// A text longer than [`TEXT_MAX`].
    #[error("a text has at most {TEXT_MAX} octets, this one has {0}: shorten it")]
    TextLength(usize),
    /// A control character in a text.
    #[error("a text has no control characters: remove {0:?}")]
    Control(char),
}

fn check_id(text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > ID_MAX {
        return Err(IdError::Length(text.len()));
    }
    match text
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-'))
    {
        Some(other) => Err(IdError::Character(other)),
        None => Ok(()),
    }
}

fn check_text(text: &str) -> Result<(), IdError> {
    if text.len() > TEXT_MAX {
        return Err(IdError::TextLength(text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(control) => Err(IdError::Control(control)),
        None => Ok(()),
    }
}

/// Parses a text, and nothing else: serde's own `String` would take a byte string too, a second spelling.
struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err = IdError>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $check:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_string(Parsed(PhantomData))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// A device: the terminal that a cloud SIM is bound to.
    DeviceId,
    check_id
);
name!(
    /// A fleet: an account on the platform that owns devices and packages.
    FleetId,
    check_id
);
name!(
    /// A package of prepaid volume.
    PackageId,
    check_id
);
name!(
    /// A SIM's ICCID, as digits.
    Iccid,
    check_id
);
name!(
    /// An enrolment key: the batch of devices that it admits belongs to one fleet.
    EnrolmentId,
    check_id
);
name!(
    /// A key of a manager, viewer or admin.
    KeyId,
    check_id
);
name!(
    /// A command: unique within its fleet for ever.
    CommandId,
    check_id
);
name!(
    /// A zone in which a package is valid, for example `home`.
    ZoneId,
    check_id
);
name!(
    /// A data channel of a device, for example `sim` or `wifi`.
    ChannelId,
    check_id
);
name!(
    /// One running cloud service.
    NodeId,
    check_id
);
name!(
    /// Free text in a message: at most [`TEXT_MAX`] octets, no control characters.
    Text,
    check_text
);

impl ZoneId {
    /// The zone `home`: where a device is when nothing else is known (DESIGN section 11, number 24).
    #[must_use]
    pub fn home() -> Self {
        Self("home".into())
    }
}

impl Text {
    /// Cuts any text down to what fits, at a character boundary, with control characters replaced by spaces.
    #[must_use]
    pub fn clipped(text: &str) -> Self {
        let mut clipped = String::with_capacity(text.len().min(TEXT_MAX));
        for c in text.chars() {
            if clipped.len() + c.len_utf8() > TEXT_MAX {
                break;
            }
            clipped.push(if c.is_control() { ' ' } else { c });
        }
        Self(clipped.into())
    }
}
