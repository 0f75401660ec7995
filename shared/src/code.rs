//! Result codes: the numbers of RFC 8506 section 9 and RFC 6733 section 7.1 where they have one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A result code. What a reader does not know it treats by its class: 2xxx success, 3xxx try again,
/// 4xxx refused for now, 5xxx refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u16);

impl Code {
    /// 2001: done.
    pub const SUCCESS: Self = Self(2001);
    /// 3004: too busy; the same octets again after `retry_s`. Not a decision.
    pub const TOO_BUSY: Self = Self(3004);
    /// 4010: service denied: suspended, closed or not allowed.
    pub const SERVICE_DENIED: Self = Self(4010);
    /// 4012: nothing left that may be granted.
    pub const CREDIT_LIMIT_REACHED: Self = Self(4012);
    /// 5002: the cloud does not know this epoch: register again. Not a decision.
    pub const UNKNOWN_EPOCH: Self = Self(5002);
    /// 5003: a newer epoch is in force, this one is closed. Not a decision.
    pub const EPOCH_SUPERSEDED: Self = Self(5003);
    /// 5004: damaged or implausible. Not a decision.
    pub const INVALID_VALUE: Self = Self(5004);
    /// 5007: the number was used before with another body. Not a decision.
    pub const NUMBER_REUSED: Self = Self(5007);
    /// 5030: the device, fleet, package or key is not known.
    pub const USER_UNKNOWN: Self = Self(5030);
    /// 5031: a field of the request can't be rated; the answer names it.
    pub const RATING_FAILED: Self = Self(5031);

    /// True for 2xxx.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 / 1000 == 2
    }

    /// True for an answer that is decided, stored and retained; the others never count as the answer to a number
    /// (rule R5 and DESIGN section 11, number 19).
    #[must_use]
    pub const fn is_decision(self) -> bool {
        matches!(
            self,
            Self::SUCCESS | Self::SERVICE_DENIED | Self::CREDIT_LIMIT_REACHED
        )
    }

    /// The name that RFC 8506 or this protocol gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SUCCESS => "success",
            Self::TOO_BUSY => "too busy",
            Self::SERVICE_DENIED => "service denied",
            Self::CREDIT_LIMIT_REACHED => "credit limit reached",
            Self::UNKNOWN_EPOCH => "unknown epoch",
            Self::EPOCH_SUPERSEDED => "epoch superseded",
            Self::INVALID_VALUE => "invalid value",
            Self::NUMBER_REUSED => "number reused",
            Self::USER_UNKNOWN => "user unknown",
            Self::RATING_FAILED => "rating failed",
            _ => "unnamed",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.name())
    }
}
