//! Tools of other languages that checks of the protocol run: Python with COSE and CBOR, a C compiler, AsyncAPI's parser.
//!
//! `.ci/run` puts them below `tools` in the build directory, in the versions that `tests/client` names.

use std::path::PathBuf;

/// Where `.ci/run` puts them; `SIMQUOTA_TOOLS` names another place.
fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("SIMQUOTA_TOOLS") {
        return Some(folder.into());
    }
    let program = std::env::current_exe().ok()?;
    program
        .ancestors()
        .map(|folder| folder.join("tools"))
        .find(|tools| tools.is_dir())
}

fn found(path: &str) -> Option<PathBuf> {
    folder()
        .map(|folder| folder.join(path))
        .filter(|path| path.exists())
}

/// The interpreter with the packages of `tests/client/requirements.txt`.
#[must_use]
pub fn python() -> Option<PathBuf> {
    found("python/bin/python3")
}

/// zcbor, which writes C from CDDL.
#[must_use]
pub fn zcbor() -> Option<PathBuf> {
    found("python/bin/zcbor")
}

/// The folder of Node's packages, with `@asyncapi/parser`.
#[must_use]
pub fn node_modules() -> Option<PathBuf> {
    found("node/node_modules/@asyncapi/parser").and(found("node/node_modules"))
}

/// A file of `tests/client`.
#[must_use]
pub fn client(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("client")
        .join(file)
}
