//! stub
use super::Common;
use clap::Args;
pub(super) const EXAMPLES: &str = "";
#[derive(Debug, Args)]
pub(super) struct TopArgs {}
pub(super) fn run(_common: &Common, _top: &TopArgs) -> anyhow::Result<()> {
    Ok(())
}
