//! Programs in Java: those of these tests, compiled, and those of Apache Kafka.

use std::process::Command;

use tempfile::TempDir;

use crate::{place, run, source};

/// The class path of Apache Kafka: its Java client, its tools, Streams, and itself.
pub(crate) const KAFKA: &str = "AFFLUX_TEST_JAVA_CLASSPATH";
/// The class path of an older Java client.
pub(crate) const KAFKA_3: &str = "AFFLUX_TEST_JAVA_3_CLASSPATH";

/// A program of Apache Kafka's.
pub(crate) fn kafka(class: &str) -> Command {
    java(&place(KAFKA), class)
}

fn java(class_path: &str, class: &str) -> Command {
    let mut command = Command::new("java");
    // It lives for seconds: less is compiled in it, and that sooner.
    command.args(["-XX:TieredStopAtLevel=1", "-Xmx512m", "-cp", class_path, class]);
    command
}

/// A program of these tests, compiled.
pub(crate) struct Program {
    class: &'static str,
    classes: TempDir,
}

impl Program {
    /// Compiles it for a class path.
    pub(crate) fn compile(class: &'static str, class_path: &str) -> Self {
        let classes = tempfile::tempdir().unwrap();
        let mut compile = Command::new("javac");
        compile.args(["-cp", &place(class_path), "-d"]).arg(classes.path());
        run(compile.arg(source(&format!("{class}.java"))), "");
        Self { class, classes }
    }

    /// What runs it with a class path.
    pub(crate) fn command(&self, class_path: &str) -> Command {
        let class_path = format!("{}:{}", self.classes.path().display(), place(class_path));
        java(&class_path, self.class)
    }
}
