//! The demo: broker, cloud and agents on this machine, a day in the life of a fleet, and a proof at its end.
//!
//! ```text
//! demo process ── embedded broker, table, story, traffic over 127.0.0.1
//!   ├─ demo cloud serve            the real service
//!   ├─ demo cloud package buy …    its real commands, one process each
//!   ├─ demo edge run … (N times)   the real agent: N - 1 play a trace, one meters the interface `lo`
//!   └─ demo edge run …             with `--gate nft`: one more, in a network namespace, behind a gate in the kernel
//! ```
//!
//! The children are this same program: with `edge` or `cloud` as its first argument it runs the main of that crate.
//! What is shown comes from where a user would look: status files, logs, and answers of the commands.

mod agent;
mod cloud;
mod options;
mod plan;
mod process;
mod proof;
mod script;
mod show;
mod sim;
mod stage;
mod story;
mod trace;
mod traffic;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use self::options::Options;

/// Exit code of a demo that could not be shown, or whose proof failed.
const FAILED: u8 = 1;

/// Runs the demo, or one of the two programs that it consists of. `args` begin with the program's name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let rest = || args.iter().take(1).chain(args.iter().skip(2)).cloned();
    match args.get(1).and_then(|first| first.to_str()) {
        Some("edge") => {
            process::die_with_parent();
            return simquota_edge::cli::main(rest());
        }
        Some("cloud") => {
            process::die_with_parent();
            return simquota_cloud::cli::main(rest());
        }
        _ => {}
    }
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(talk) => {
            // Help is no mistake, and a closed pipe is nobody's.
            let _ = talk.print();
            return ExitCode::from(u8::try_from(talk.exit_code()).unwrap_or(FAILED));
        }
    };
    match script::play(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
