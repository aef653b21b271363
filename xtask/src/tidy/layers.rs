//! Which crate may depend on which: the table of ARCHITECTURE.md as data.
//!
//! A crate may use every crate of a lower layer that is not withheld from it, and those of its
//! own layer that its row names. Dependencies for tests count: a test that needs an upper layer
//! belongs there.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;

/// A crate's place.
struct Place {
    name: &'static str,
    layer: u8,
    /// The crates of its own layer that it may use.
    beside: &'static [&'static str],
}

/// The layer of crates that are never shipped: they may use all, nobody may use them but each
/// other and, for tests, anyone.
const DEVELOPMENT: u8 = 7;

const fn place(name: &'static str, layer: u8, beside: &'static [&'static str]) -> Place {
    Place { name, layer, beside }
}

const PLACES: &[Place] = &[
    place("afflux-types", 0, &[]),
    place("afflux-env", 0, &["afflux-types"]),
    place("afflux-record", 1, &[]),
    place("afflux-codec", 1, &[]),
    place("afflux-log", 2, &[]),
    place("afflux-state", 2, &[]),
    place("afflux-plan", 3, &[]),
    place("afflux-catalog", 3, &["afflux-plan"]),
    place("afflux-sql", 3, &["afflux-plan", "afflux-catalog"]),
    place("afflux-dataflow", 3, &["afflux-plan"]),
    place("afflux-kafka", 4, &[]),
    place("afflux-registry", 4, &[]),
    place("afflux-engine", 4, &[]),
    place("afflux-cluster", 4, &[]),
    place("afflux-connect", 4, &[]),
    place("afflux-serve", 5, &[]),
    place("afflux-server", 6, &[]),
    place("afflux", 6, &["afflux-server"]),
    place("afflux-sim", DEVELOPMENT, &[]),
    place("afflux-bench", DEVELOPMENT, &["afflux-sim"]),
    place("xtask", DEVELOPMENT, &[]),
];

/// Outside crates that only some of ours may use, so that what they bring stays replaceable.
/// Tests are free.
const WITHHELD: &[(&str, &[&str])] = &[
    ("datafusion", &["afflux-sql", "afflux-dataflow", "afflux-serve"]),
    ("pgwire", &["afflux-serve"]),
    ("arrow-pg", &["afflux-serve"]),
    ("axum", &["afflux-serve"]),
    ("kafka-protocol", &["afflux-kafka", "afflux-bench"]),
    ("rdkafka", &["afflux-cluster", "afflux", "afflux-bench"]),
    (
        "tokio",
        &[
            "afflux-env",
            "afflux-log",
            "afflux-kafka",
            "afflux-registry",
            "afflux-engine",
            "afflux-cluster",
            "afflux-connect",
            "afflux-serve",
            "afflux-server",
            "afflux",
            "afflux-sim",
            "afflux-bench",
        ],
    ),
    ("anyhow", &["afflux", "afflux-bench", "afflux-sim", "xtask"]),
];

/// The layer of the crate that a file belongs to; `None` outside the crates' folders.
pub(super) fn layer_of(path: &str) -> Option<u8> {
    let mut parts = Path::new(path).iter().filter_map(|part| part.to_str());
    let name = match parts.next()? {
        "crates" => parts.next()?,
        "xtask" => "xtask",
        _ => return None,
    };
    PLACES.iter().find(|place| place.name == name).map(|place| place.layer)
}

/// A crate of the workspace and what it depends on.
#[derive(Debug)]
pub(super) struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug)]
struct Dependency {
    name: String,
    for_tests: bool,
    ours: bool,
}

/// Reads the output of `cargo metadata --no-deps`.
pub(super) fn packages(metadata: &str) -> Result<Vec<Package>> {
    let metadata: Value = serde_json::from_str(metadata).context("read cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("cargo's metadata has no packages")?;
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().context("a package without a name")?.to_owned();
            let dependencies = package["dependencies"]
                .as_array()
                .with_context(|| format!("{name} has no list of dependencies"))?
                .iter()
                .map(|dependency| {
                    Ok(Dependency {
                        name: dependency["name"]
                            .as_str()
                            .context("a dependency without a name")?
                            .to_owned(),
                        for_tests: dependency["kind"] == "dev",
                        ours: dependency["path"].is_string(),
                    })
                })
                .collect::<Result<_>>()?;
            Ok(Package { name, dependencies })
        })
        .collect()
}

/// Every edge that the table does not allow.
pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let finding = |message| Finding { path: manifest(&package.name), line: 0, message };
    let Some(from) = PLACES.iter().find(|place| place.name == package.name) else {
        return vec![finding(format!(
            "{} has no layer: give it one in xtask/src/tidy/layers.rs and ARCHITECTURE.md",
            package.name
        ))];
    };
    let refused = package.dependencies.iter().filter_map(|dependency| {
        if dependency.ours {
            refuse_ours(from, dependency)
        } else {
            refuse_outside(from, dependency)
        }
    });
    refused.map(finding).collect()
}

fn refuse_ours(from: &Place, dependency: &Dependency) -> Option<String> {
    // A crate without a place is reported where it is defined.
    let to = PLACES.iter().find(|place| place.name == dependency.name)?;
    let allowed = if to.layer == DEVELOPMENT && from.layer != DEVELOPMENT {
        dependency.for_tests
    } else if to.layer == from.layer {
        from.beside.contains(&to.name)
    } else {
        to.layer < from.layer
    };
    (!allowed).then(|| {
        format!(
            "{} (layer {}) must not use {} (layer {})",
            from.name, from.layer, to.name, to.layer
        )
    })
}

fn refuse_outside(from: &Place, dependency: &Dependency) -> Option<String> {
    if dependency.for_tests {
        return None;
    }
    let (name, allowed) = WITHHELD.iter().find(|(name, _)| *name == dependency.name)?;
    (!allowed.contains(&from.name))
        .then(|| format!("{} must not use {name}: only {} may", from.name, allowed.join(", ")))
}

fn manifest(package: &str) -> String {
    match package {
        "xtask" => "xtask/Cargo.toml".to_owned(),
        name => format!("crates/{name}/Cargo.toml"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `from` and its dependencies, `NAME`, `dev:NAME` or `outside:NAME`.
    fn check_edges(from: &str, to: &[&str], expected: &[&str]) {
        let dependencies = to
            .iter()
            .map(|to| {
                let (kind, name) = to.split_once(':').unwrap_or(("", to));
                serde_json::json!({
                    "name": name,
                    "kind": (kind == "dev").then_some("dev"),
                    "path": (kind != "outside").then_some("somewhere"),
                })
            })
            .collect::<Vec<_>>();
        let metadata =
            serde_json::json!({ "packages": [{ "name": from, "dependencies": dependencies }] });
        let packages = packages(&metadata.to_string()).unwrap();
        let messages: Vec<_> = check(&packages).into_iter().map(|found| found.message).collect();
        assert_eq!(messages, expected, "{from} -> {to:?}");
    }

    #[test]
    fn edges_go_down() {
        check_edges("afflux-log", &["afflux-record", "afflux-env", "afflux-types"], &[]);
        check_edges(
            "afflux-log",
            &["afflux-engine"],
            &["afflux-log (layer 2) must not use afflux-engine (layer 4)"],
        );
        check_edges(
            "afflux-types",
            &["dev:afflux-record"],
            &["afflux-types (layer 0) must not use afflux-record (layer 1)"],
        );
    }

    #[test]
    fn neighbours_are_named() {
        check_edges("afflux-sql", &["afflux-plan", "afflux-catalog"], &[]);
        check_edges(
            "afflux-sql",
            &["afflux-dataflow"],
            &["afflux-sql (layer 3) must not use afflux-dataflow (layer 3)"],
        );
        check_edges(
            "afflux-state",
            &["afflux-log"],
            &["afflux-state (layer 2) must not use afflux-log (layer 2)"],
        );
        check_edges("afflux", &["afflux-server"], &[]);
        check_edges(
            "afflux-server",
            &["afflux"],
            &["afflux-server (layer 6) must not use afflux (layer 6)"],
        );
    }

    #[test]
    fn development_crates_serve_tests_alone() {
        check_edges("afflux-log", &["dev:afflux-sim"], &[]);
        check_edges(
            "afflux-log",
            &["afflux-sim"],
            &["afflux-log (layer 2) must not use afflux-sim (layer 7)"],
        );
    }

    #[test]
    fn every_crate_has_a_layer() {
        check_edges(
            "afflux-misc",
            &[],
            &["afflux-misc has no layer: give it one in xtask/src/tidy/layers.rs and \
               ARCHITECTURE.md"],
        );
    }

    #[test]
    fn withheld_crates_stay_where_they_belong() {
        check_edges("afflux-serve", &["outside:axum", "outside:serde"], &[]);
        check_edges(
            "afflux-engine",
            &["outside:axum"],
            &["afflux-engine must not use axum: only afflux-serve may"],
        );
    }

    #[test]
    fn files_know_their_layer() {
        assert_eq!(layer_of("crates/afflux-record/src/lib.rs"), Some(1));
        assert_eq!(layer_of("xtask/src/main.rs"), Some(DEVELOPMENT));
        assert_eq!(layer_of("README.md"), None);
    }
}
