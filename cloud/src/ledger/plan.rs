//! Plans: packages that come anew each day, week or month.

use serde::{Deserialize, Serialize};
use simquota_shared::ids::PackageId;
use simquota_shared::units::UnixMillis;

use super::entry::PlanBegan;

/// A plan. Each period is a package of its own, so that all that holds for packages holds for it: what is left at
/// the turn expires or goes over, and late usage finds the package that it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What was agreed.
    pub terms: PlanBegan,
    /// Periods so far.
    pub periods: u64,
    /// The package of the period that runs; none: it was not paid for.
    pub current: Option<PackageId>,
    /// When it turns; none: it has ended.
    pub next: Option<UnixMillis>,
}
