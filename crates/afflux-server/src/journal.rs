//! The journal of a node that is not running: for whoever is on call.

use std::path::Path;

use afflux_env::real;
use afflux_log::{LogOptions, error::OpenError, repair};

pub use afflux_log::repair::{Checked, Damage, Loss, RepairError, Repaired};

/// Reads the whole journal of a data directory. Changes nothing.
pub fn check(dir: &Path) -> Result<Checked, OpenError> {
    repair::check(&real::env(), dir)
}

/// Cuts what keeps a node from starting, and everything behind it, out of its journal, if
/// `consent` agrees to what it is shown.
pub fn repair(dir: &Path, consent: impl FnOnce(&Checked) -> bool) -> Result<Repaired, RepairError> {
    repair::repair(&real::env(), dir, &LogOptions::default(), consent)
}
