//! Our broker beside Apache Kafka: one client and one configuration against both, on the same
//! machine and disk, in turns, with the load generator on the same cores.
//!
//! 1. Both brokers run all the time, and so does one that throws everything away; a round loads
//!    one of them and leaves the others alone. Which comes first changes from round to round.
//! 2. Before what is measured both are warmed up, for a JVM compiles what it has run often.
//! 3. Every round has a topic of its own that is removed behind it, and begins when the disk has
//!    taken all that was written before ([`settle`]), so that nobody pays for another's
//!    unsynced pages.
//! 4. Figures are held against what was measured in the same rounds. Where a target is the
//!    smaller of two, so is the reference; all that goes into it is printed too.
//!
//! | module | what |
//! |---|---|
//! | [`kafka`], [`null`] | the other brokers |
//! | [`librdkafka`], [`prebuilt`], [`wire`] | clients |
//! | [`produce`], [`consume`], [`many`] | cases |
//! | [`results`] | rounds, and going on with a run |

mod consume;
mod kafka;
mod librdkafka;
mod many;
mod null;
mod prebuilt;
mod produce;
mod results;
mod wire;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::{
    kafka::Kafka,
    prebuilt::{ENDLESS, Load},
    results::{Figures, Results},
};
use crate::{
    Settings,
    node::{self, Node},
    report::{Reference, Report},
    usage,
};

pub(crate) const KAFKA: &str = "Apache Kafka";
const WARM_TOPIC: &str = "warm-16";
/// With each client. After less a JVM still compiles beside what is measured.
const WARM_UP: Duration = Duration::from_secs(6);
/// The same where there is no JVM.
const WARM_UP_ALONE: Duration = Duration::from_secs(1);

/// A size of records and a number of partitions.
#[derive(Debug, Clone, Copy)]
struct Case {
    record_bytes: usize,
    partitions: i32,
}

impl Case {
    const ALL: [Self; 6] = [
        Self::new(100, 1),
        Self::new(100, 16),
        Self::new(100, 100),
        Self::new(1000, 1),
        Self::new(1000, 16),
        Self::new(1000, 100),
    ];
    /// For a daily look.
    const QUICK: [Self; 2] = [Self::new(100, 16), Self::new(1000, 1)];

    const fn new(record_bytes: usize, partitions: i32) -> Self {
        Self { record_bytes, partitions }
    }

    fn named(self, what: &str) -> String {
        format!("{what}, {} B x {}", self.record_bytes, self.partitions)
    }
}

/// Which of the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Ours,
    Kafka,
    Null,
}

/// The brokers while they run.
struct Brokers {
    ours: Node,
    kafka: Option<Kafka>,
    null: String,
    topics: usize,
}

impl Brokers {
    fn start(bench: &Bench<'_>) -> Result<Self> {
        let ours = Node::start(&bench.program, &bench.settings.dir.join("ours"))?;
        let kafka = (!bench.settings.alone)
            .then(|| Kafka::start(&bench.settings.dir.join("kafka")))
            .transpose()?;
        let brokers = Self { ours, kafka, null: null::start()?.to_string(), topics: 0 };
        let length = if bench.settings.alone { WARM_UP_ALONE } else { WARM_UP };
        for which in bench.sides(&[Which::Ours, Which::Kafka], |which| *which) {
            let address = brokers.address(which);
            wire::create_topic(address, WARM_TOPIC, 16, &[])?;
            librdkafka::throughput(address, WARM_TOPIC, 16, 1000, length)?;
            Load::new(WARM_TOPIC, 16, 1000)?.send(address, length, ENDLESS)?;
            prebuilt::read(address, WARM_TOPIC, 16, length)?;
            wire::delete_topic(address, WARM_TOPIC)?;
        }
        settle();
        Ok(brokers)
    }

    fn theirs(&self) -> &Kafka {
        self.kafka.as_ref().expect("what is asked of it is left out without it")
    }

    fn address(&self, which: Which) -> &str {
        match which {
            Which::Ours => &self.ours.addresses.kafka,
            Which::Kafka => &self.theirs().address,
            Which::Null => &self.null,
        }
    }

    /// Seconds of CPU that a broker has used. The null broker has no process of its own.
    fn cpu(&self, which: Which) -> Result<f64> {
        match which {
            Which::Ours => usage::cpu_seconds(self.ours.pid()),
            Which::Kafka => usage::cpu_seconds(self.theirs().pid()),
            Which::Null => Ok(f64::NAN),
        }
    }

    /// Makes a topic that no other round has.
    fn create(
        &mut self,
        which: Which,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<String> {
        self.topics += 1;
        let topic = format!("round-{}-{partitions}", self.topics);
        if which != Which::Null {
            wire::create_topic(self.address(which), &topic, partitions, settings)?;
        }
        Ok(topic)
    }

    fn remove(&self, which: Which, topic: &str) -> Result<()> {
        if which != Which::Null {
            wire::delete_topic(self.address(which), topic)?;
        }
        settle();
        Ok(())
    }
}

/// Waits until the disk has all that was written.
fn settle() {
    rustix::fs::sync();
}

/// What all cases share.
struct Bench<'a> {
    settings: &'a Settings,
    program: PathBuf,
    /// Of a round.
    length: Duration,
    cases: &'static [Case],
    /// Once something is to be measured: with all results known none is started.
    brokers: Option<Brokers>,
}

impl Bench<'_> {
    /// Whether a case was asked for.
    fn wants(&self, case: &str) -> bool {
        case.contains(&self.settings.case)
    }

    /// The sides of a case that take part.
    fn sides<S: Copy>(&self, sides: &[S], which: impl Fn(&S) -> Which) -> Vec<S> {
        let takes_part = |side: &&S| !self.settings.alone || which(side) != Which::Kafka;
        sides.iter().filter(takes_part).copied().collect()
    }

    fn brokers(&mut self) -> Result<&mut Brokers> {
        if self.brokers.is_none() {
            self.brokers = Some(Brokers::start(self)?);
        }
        Ok(self.brokers.as_mut().expect("they were started above"))
    }
}

/// Takes as many open files as there may be: a thousand connections are more than a shell allows
/// at first. The brokers inherit it.
fn allow_files() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, limit).context("allow more open files")
}

pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    allow_files()?;
    let mut results = Results::open(
        settings.results.as_deref(),
        settings.quick,
        settings.rounds(),
        settings.length_max,
    )?;
    let mut bench = Bench {
        settings,
        program: node::program()?,
        length: Duration::from_secs(if settings.quick { 2 } else { 3 }),
        cases: if settings.quick { &Case::QUICK } else { &Case::ALL },
        brokers: None,
    };
    produce::by_librdkafka(&mut bench, &mut results, report)?;
    produce::by_prebuilt(&mut bench, &mut results, report)?;
    produce::latency(&mut bench, &mut results, report)?;
    consume::run(&mut bench, &mut results, report)?;
    many::partitions(&mut bench, &mut results, report)?;
    bench.brokers = None;
    many::restart(&mut bench, &mut results, report)
}

/// Runs the sides of a round, another one first each time.
fn in_turn<S: Copy>(
    round: usize,
    sides: &[S],
    mut side: impl FnMut(S) -> Result<Figures>,
) -> Result<Figures> {
    let mut figures = Figures::new();
    for at in 0..sides.len() {
        figures.extend(side(sides[(at + round) % sides.len()])?);
    }
    Ok(figures)
}

/// A reference that is one of the figures.
fn reference(name: &str, figures: &Figures) -> Reference {
    Reference { name: name.to_owned(), value: figures.get(name).copied().unwrap_or(f64::NAN) }
}

/// The smaller of two multiples of figures: what is asked for is the easier of both.
fn smaller(figures: &Figures, parts: [(f64, &str); 2]) -> Reference {
    let [first, second] = parts.map(|(times, name)| times * reference(name, figures).value);
    let [(a, name), (b, other)] = parts;
    Reference {
        name: format!("the smaller of {a} x {name} and {b} x {other}"),
        value: first.min(second),
    }
}

/// CPU of both, for a million records each.
fn report_cpu(report: &mut Report, case: &str, figures: &Figures) {
    let ours = reference("ours, CPU", figures).value;
    let theirs = reference(&format!("{KAFKA}, CPU"), figures);
    report.compared(&format!("{case}: CPU"), ours, "s per million records", &theirs);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_take_turns_to_be_first() {
        let mut order = String::new();
        for round in 0..3 {
            in_turn(round, &['a', 'b', 'c'], |side| {
                order.push(side);
                Ok(Figures::new())
            })
            .unwrap();
        }
        assert_eq!(order, "abcbcacab");
    }

    #[test]
    fn the_easier_target_counts() {
        let figures = Figures::from([("x".to_owned(), 10.0), ("y".to_owned(), 30.0)]);
        let target = smaller(&figures, [(2.0, "x"), (0.5, "y")]);
        assert!((target.value - 15.0).abs() < 1e-9);
        assert_eq!(target.name, "the smaller of 2 x x and 0.5 x y");
    }
}
