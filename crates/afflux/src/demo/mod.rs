//! `afflux demo`: a year of real flights through a node, and the proof that its views are right.
//!
//! 1. The node starts as a child process ([`process`]); it may be killed and comes back.
//! 2. Topics, sources and views are made as a user would make them: over Kafka and SQL.
//! 3. The flights are sent as records in event-time order ([`flights`], [`send`]).
//! 4. A reader follows one view and takes the time to sight ([`watch`]); [`screen`] shows it.
//! 5. With `--until-done`, when the node has acknowledged every record and both views count as
//!    many, they are compared with a batch computation ([`check`]).

mod check;
mod flights;
mod process;
mod screen;
mod send;
mod watch;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;

use crate::{
    args::{DemoArgs, HTTP_PORT, KAFKA_PORT, POSTGRES_PORT},
    failure::{Failure, Status},
    http::Node,
    interrupt::Interrupt,
    topic,
};
use flights::{Timeline, instant_of};
use process::{NodeProcess, Place};
use screen::{Progress, Screen, TOP};
use send::{Pace, Sender};
use watch::Watch;

const PARTITIONS: i32 = 4;
/// How the SQL file names the table of airlines.
const AIRLINES_PATH: &str = "'examples/flights/airlines.csv'";
/// How long to wait where there is nothing to do.
const IDLE: Duration = Duration::from_millis(1);
/// How often the views' counts are asked for at the end.
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let interrupt = Interrupt::watch()?;
    let screen = Screen::new(args.json);
    let scratch = tempfile::Builder::new()
        .prefix("afflux-demo-")
        .tempdir()
        .context("making a temporary directory")?;
    let place = Place {
        data_dir: args.data_dir.clone().unwrap_or_else(|| scratch.path().join("data")),
        ready_file: scratch.path().join("ready.json"),
        listen: process::free_addresses([
            (args.kafka, KAFKA_PORT),
            (args.postgres, POSTGRES_PORT),
            (args.http, HTTP_PORT),
        ])?,
    };
    let node = NodeProcess::start(place, &screen)?;
    let outcome = replay(args, &node, scratch.path(), &screen, &interrupt);
    screen.close();
    let stopped = node.stop();
    outcome.and(stopped)
}

/// What was sent, and how long it took until all of it was shown.
struct Replayed {
    records: u64,
    took: Duration,
}

fn replay(
    args: &DemoArgs,
    node: &NodeProcess,
    scratch: &Path,
    screen: &Screen,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let addresses = node.addresses();
    let reader = Node::new(&addresses.http.to_string());
    prepare(&reader, &addresses.kafka.to_string(), scratch)?;
    screen.addresses(&addresses);

    let flights = flights::flights(args.days)?;
    let timeline = Timeline::new(&flights)?;
    drop(flights);
    let watch = Watch::start(reader.clone(), timeline.routes())?;
    let mut run = Run {
        sender: Sender::new(
            addresses.kafka.to_string(),
            &timeline,
            watch.clone(),
            args.speed,
            args.drop_record,
        )?,
        timeline: &timeline,
        watch: &watch,
        node,
        reader: &reader,
        screen,
        interrupt,
        patience: Duration::from_secs(args.patience),
    };
    let begun = Instant::now();
    let sent_all = run.send(args, begun)?;
    if !sent_all {
        run.sender.abandon();
        return if args.until_done { Err(Failure::interrupted()) } else { Ok(()) };
    }
    if !args.until_done {
        screen.say("The year is over; the node stays until Ctrl-C.", "over", json!({}));
        while !interrupt.came() {
            node.check()?;
            run.sender.check()?;
            run.sender.wait(Duration::from_millis(50));
        }
        return Ok(());
    }
    if !run.wait_until_shown()? {
        run.sender.abandon();
        return Err(Failure::interrupted());
    }
    let replayed = Replayed { records: run.sender.next(), took: begun.elapsed() };
    let sent = run.sender.sent();
    drop(run);
    drop(timeline);
    prove(args, &replayed, sent, node, &reader, &watch, screen)
}

/// What a setting takes for "for ever".
const NO_LIMIT: &str = "9223372036854775807";

/// Makes topics, sources, table and views, as `flights.sql` says.
fn prepare(reader: &Node, kafka: &str, scratch: &Path) -> Result<(), Failure> {
    let names = ["departures", "arrivals"];
    // Its flights are of 2013, and of years to come where it repeats them.
    let any_time = [("retention.ms", "-1"), ("message.timestamp.after.max.ms", NO_LIMIT)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    topic::create(kafka, &names, PARTITIONS, &any_time, false).map_err(|failure| {
        failure.hint("the demo wants a data directory that holds nothing yet")
    })?;
    let airlines = scratch.join("airlines.csv");
    std::fs::write(&airlines, flights::AIRLINES)
        .with_context(|| format!("writing {}", airlines.display()))?;
    let quoted = format!("'{}'", airlines.display().to_string().replace('\'', "''"));
    let sql = flights::SQL.replace(AIRLINES_PATH, &quoted);
    for statement in crate::sql::statements(&sql) {
        let mut rows = reader.query(&statement)?;
        while rows.next_line()?.is_some() {}
    }
    Ok(())
}

struct Run<'a> {
    sender: Sender<'a>,
    timeline: &'a Timeline,
    watch: &'a Watch,
    node: &'a NodeProcess,
    reader: &'a Node,
    screen: &'a Screen,
    interrupt: &'a Interrupt,
    patience: Duration,
}

impl Run<'_> {
    /// Sends everything; false if Ctrl-C came first.
    fn send(&mut self, args: &DemoArgs, begun: Instant) -> Result<bool, Failure> {
        let time = args.seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let total = time.is_none().then(|| self.timeline.records_a_year() * u64::from(args.years));
        let end = total.unwrap_or(u64::MAX);
        let mut pace = Pace::new(args.speed);
        let mut drawn = (begun, 0);
        loop {
            let now = Instant::now();
            if self.interrupt.came() {
                return Ok(false);
            }
            if self.sender.next() >= end || time.is_some_and(|time| now - begun >= time) {
                return Ok(true);
            }
            pace.run(self.node.is_serving(), now);
            if !self.sender.pump(end, pace.minute(now))? {
                self.sender.wait(IDLE);
                self.check()?;
            }
            if now - drawn.0 >= self.screen.refresh() {
                self.draw(total, drawn, now);
                drawn = (now, self.sender.next());
            }
        }
    }

    /// Waits until every record is acknowledged and in both views; false if Ctrl-C came first.
    fn wait_until_shown(&mut self) -> Result<bool, Failure> {
        let sent = self.sender.sent();
        let mut best = (u64::MAX, 0, 0);
        let mut advanced = Instant::now();
        let mut asked: Option<Instant> = None;
        loop {
            if self.interrupt.came() {
                return Ok(false);
            }
            self.check()?;
            self.sender.wait(IDLE);
            let unacknowledged = self.sender.unacknowledged();
            let shown = self.watch.shown();
            let mut departures = best.2;
            // Only when the rest is done is it worth the node's time to add up a view.
            if unacknowledged == 0
                && shown >= sent.1
                && asked.is_none_or(|asked| asked.elapsed() >= ASKED_EVERY)
            {
                match check::totals(self.reader) {
                    Ok(totals) if totals >= sent && totals.1 >= sent.1 => return Ok(true),
                    Ok(totals) => departures = totals.0,
                    // It may be on its way back.
                    Err(failure) if failure.is_passing() => {}
                    Err(failure) => return Err(failure),
                }
                asked = Some(Instant::now());
            }
            let state = (unacknowledged, shown, departures);
            if state != best {
                best = state;
                advanced = Instant::now();
            } else if advanced.elapsed() > self.patience {
                let (unacknowledged, shown, departures) = state;
                return Err(Failure::new(
                    Status::Failed,
                    format!(
                        "nothing moved for {} s: {unacknowledged} records are not acknowledged, \
                         the views show {departures} of {} departures and {shown} of {} arrivals",
                        self.patience.as_secs(),
                        sent.0,
                        sent.1
                    ),
                ));
            }
        }
    }

    fn check(&self) -> Result<(), Failure> {
        self.node.check()?;
        self.sender.check()?;
        self.watch.check()
    }

    fn draw(&self, total: Option<u64>, (before, sent_before): (Instant, u64), now: Instant) {
        let sent = self.sender.next();
        let minutes = self.timeline.minutes_until(sent.saturating_sub(1));
        self.screen.progress(&Progress {
            clock: instant_of(self.timeline.begins() + minutes),
            sent,
            total,
            rate: (sent - sent_before) as f64 / (now - before).as_secs_f64(),
            shown: self.watch.shown(),
            top: self.watch.top(TOP),
        });
    }
}

/// Compares the views with the batch computation and says how it went.
fn prove(
    args: &DemoArgs,
    replayed: &Replayed,
    sent: (u64, u64),
    node: &NodeProcess,
    reader: &Node,
    watch: &Watch,
    screen: &Screen,
) -> Result<(), Failure> {
    let expected = check::recompute(&flights::flights(args.days)?, replayed.records);
    let outcome = check::compare(reader, expected)?;
    let (latencies, unseen) = watch.latencies();
    let percentile = |part: f64| {
        let index = (latencies.len() as f64 * part) as usize;
        latencies.get(index.min(latencies.len().saturating_sub(1))).map(|d| d.as_secs_f64() * 1e3)
    };
    let (p50, p99) = (percentile(0.5), percentile(0.99));
    let records = sent.0 + sent.1;
    let seconds = replayed.took.as_secs_f64();
    let rate = records as f64 / seconds;
    let equal = outcome.differences_count == 0;
    let shown = |ms: Option<f64>| ms.map_or("unknown".to_owned(), |ms| format!("{ms:.2} ms"));
    let verdict = if equal {
        "views equal the batch recomputation".to_owned()
    } else {
        format!("{} rows differ from the batch recomputation", outcome.differences_count)
    };
    screen.close();
    screen.say(
        &format!(
            "{records} records ({} departures, {} arrivals) in {seconds:.2} s: {rate:.0} records/s\n\
             send call to sight: p50 {}, p99 {} ({} samples)\n\
             node restarts: {}\n\
             rows compared: {}\n\
             {verdict}",
            sent.0,
            sent.1,
            shown(p50),
            shown(p99),
            latencies.len(),
            node.restarts(),
            outcome.rows_equal + outcome.differences_count,
        ),
        "done",
        json!({
            "records": records, "departures": sent.0, "arrivals": sent.1,
            "seconds": seconds, "records_per_second": rate,
            "latency_p50_ms": p50, "latency_p99_ms": p99,
            "latency_samples": latencies.len(), "latency_samples_unseen": unseen,
            "restarts": node.restarts(), "rows_equal": outcome.rows_equal,
            "rows_differing": outcome.differences_count, "views_equal": equal,
        }),
    );
    if equal {
        return Ok(());
    }
    for difference in &outcome.differences {
        screen.say(difference, "difference", json!({ "row": difference }));
    }
    Err(Failure::new(Status::Failed, "the views differ from the batch recomputation"))
}
