//! The bill of materials: every crate that is linked into `simquota-edge` and `simquota-cloud`, with version, licence,
//! source and checksum, as CycloneDX 1.6 JSON. Out of `cargo metadata` and `Cargo.lock`, without a network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// What is shipped.
const PROGRAMS: [&str; 2] = ["simquota-edge", "simquota-cloud"];

/// Prints it.
#[must_use]
pub fn main() -> ExitCode {
    match bill() {
        Ok(bill) => {
            println!("{bill:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The bill.
///
/// # Errors
/// When cargo can't say what is used.
pub fn bill() -> anyhow::Result<Value> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let lock: toml::Table = fs::read_to_string(format!("{root}/Cargo.lock"))?.parse()?;
    let checksums = checksums(&lock);
    let packages = rows(&metadata["packages"]);
    let linked = linked(&metadata, &packages);
    let components: Vec<Value> = packages
        .iter()
        .filter(|package| linked.contains(text(package, "id")))
        .map(|package| component(package, &checksums))
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": { "type": "application", "name": "simquota", "version": env!("CARGO_PKG_VERSION") } },
        "components": components,
    }))
}

fn rows(value: &Value) -> Vec<&Value> {
    value
        .as_array()
        .map(|rows| rows.iter().collect())
        .unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// The ids of everything that is linked: normal dependencies, not those of builds and tests, and no macros.
fn linked<'a>(metadata: &'a Value, packages: &[&'a Value]) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&str, &Value> = rows(&metadata["resolve"]["nodes"])
        .into_iter()
        .map(|node| (text(node, "id"), node))
        .collect();
    let mut open: Vec<&str> = packages
        .iter()
        .filter(|package| PROGRAMS.contains(&text(package, "name")))
        .map(|package| text(package, "id"))
        .collect();
    // They run inside the compiler, and nothing of them is linked.
    let macros: BTreeSet<&str> = packages
        .iter()
        .filter(|package| {
            let of_macro = |target: &&Value| rows(&target["kind"]).contains(&&json!("proc-macro"));
            rows(&package["targets"]).iter().any(of_macro)
        })
        .map(|package| text(package, "id"))
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if macros.contains(id) || !seen.insert(id) {
            continue;
        }
        for dependency in nodes
            .get(id)
            .map(|node| rows(&node["deps"]))
            .unwrap_or_default()
        {
            // Cargo writes no kind for a normal dependency.
            if rows(&dependency["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"].is_null())
            {
                open.push(text(dependency, "pkg"));
            }
        }
    }
    seen
}

fn checksums(lock: &toml::Table) -> BTreeMap<(String, String), String> {
    let packages = lock.get("package").and_then(toml::Value::as_array);
    packages
        .into_iter()
        .flatten()
        .filter_map(|package| {
            let field = |name: &str| Some(package.get(name)?.as_str()?.to_owned());
            Some(((field("name")?, field("version")?), field("checksum")?))
        })
        .collect()
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (text(package, "name"), text(package, "version"));
    let purl = format!("pkg:cargo/{name}@{version}");
    let mut component = json!({
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": [{ "expression": text(package, "license") }],
    });
    if let Some(checksum) = checksums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_bill_names_what_is_linked_and_nothing_of_the_tests() {
        let bill = bill().unwrap();
        let rows = rows(&bill["components"]);
        let find = |name: &str| rows.iter().find(|row| row["name"] == name);
        assert!(find("rustls").unwrap()["hashes"][0]["content"].is_string());
        assert!(find("simquota-edge").is_some() && find("fjall").is_some());
        assert!(find("rumqttd").is_none() && find("insta").is_none() && find("syn").is_none());
        for row in &rows {
            assert!(
                row["licenses"][0]["expression"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{row}"
            );
        }
    }
}
