//! All tests, on a machine that has nothing but Rust and a C compiler.
//!
//! 1. Install what the tests drive: clients in other languages, a browser, the test runner.
//!    What cannot be installed is an error that names it; no test is skipped instead.
//! 2. Run the tests through `cargo nextest`, which ends those that hang.
//! 3. Run the examples in the documentation.
//!
//! Tests find the tools on `PATH`, but for those that have no name there:
//!
//! | variable | what |
//! |---|---|
//! | `AFFLUX_TEST_PYTHON` | a Python with Kafka's clients and psycopg |
//! | `AFFLUX_TEST_JAVA_CLASSPATH` | Apache Kafka with its Java client and tools, for `java -cp` |
//! | `AFFLUX_TEST_JAVA_3_CLASSPATH` | its older Java client |
//! | `AFFLUX_TEST_NODE_PATH` | modules of Node |
//! | `AFFLUX_TEST_GO_CLIENTS` | programs in Go |

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{
    process,
    tools::{self, Cache, TEST_TOOLS},
};

/// Installs and runs; `arguments` go to nextest, and then the documentation's examples, which
/// nextest knows nothing of, are left out.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let cache = Cache::open()?;
    tools::programs()?;
    tools::python_tools(&cache, TEST_TOOLS)?;
    let python = tools::python_clients(&cache)?;
    let java_classpath = tools::jars(&cache, &tools::KAFKA)?;
    let java_3_classpath = tools::jars(&cache, &tools::KAFKA_3)?;
    let node_path = tools::node_clients(&cache)?;
    let go_clients = tools::go_clients(&cache, root)?;

    let mut tests = Command::new("cargo-nextest");
    tests.args(["nextest", "run", "--locked"]);
    if !arguments.iter().any(|a| a.starts_with("-p") || a.starts_with("--package")) {
        tests.arg("--workspace");
    }
    tests.args(arguments);
    let mut examples = Command::new("cargo");
    examples.args(["test", "--doc", "--workspace", "--locked", "--quiet"]);
    for command in [&mut tests, &mut examples] {
        cache.extend_path(command);
        command
            .current_dir(root)
            .env("AFFLUX_TEST_PYTHON", &python)
            .env("AFFLUX_TEST_JAVA_CLASSPATH", &java_classpath)
            .env("AFFLUX_TEST_JAVA_3_CLASSPATH", &java_3_classpath)
            .env("AFFLUX_TEST_NODE_PATH", &node_path)
            .env("AFFLUX_TEST_GO_CLIENTS", &go_clients);
    }
    if arguments.is_empty() {
        // Last comes what closes with the number of tests.
        process::run(&mut examples)?;
    }
    process::run(&mut tests)
}
