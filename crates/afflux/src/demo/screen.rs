//! What the demo shows: bars where somebody watches, plain lines or JSON where not.

use std::{process::ExitStatus, time::Duration};

use afflux_server::Addresses;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::terminal::say;

/// How many rows of the view are shown.
pub(crate) const TOP: usize = 5;
/// How often bars are drawn.
const DRAWN_EVERY: Duration = Duration::from_millis(100);
/// How often a plain line is written.
const WRITTEN_EVERY: Duration = Duration::from_secs(2);

/// Where the demo's words go. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Screen {
    /// A terminal.
    Drawn(Bars),
    /// One line after the other.
    Plain,
    /// One JSON object a line.
    Json,
}

/// The bars on a terminal.
#[derive(Clone)]
pub(crate) struct Bars {
    multi: MultiProgress,
    bar: ProgressBar,
    top: Vec<ProgressBar>,
}

/// One row of view `routes`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Route {
    /// From where.
    pub(crate) origin: String,
    /// To where.
    pub(crate) dest: String,
    /// How many landed.
    pub(crate) flights: u64,
    /// Minutes behind the schedule at arrival, on average; none if never known.
    pub(crate) mean_delay: Option<f64>,
}

/// How far it has got.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// The time of the replay, `2013-01-01T10:15:00Z`.
    pub(crate) clock: String,
    /// Records handed to the client.
    pub(crate) sent: u64,
    /// Records in the whole replay; none if time decides about its end.
    pub(crate) total: Option<u64>,
    /// Records a second of late.
    pub(crate) rate: f64,
    /// Landings that view `routes` shows.
    pub(crate) shown: u64,
    /// The busiest routes.
    pub(crate) top: Vec<Route>,
}

impl Screen {
    /// What fits the terminal and the flags.
    pub(crate) fn new(json: bool) -> Self {
        if json {
            Self::Json
        } else if crate::terminal::is_watched() {
            Self::Drawn(Bars::new())
        } else {
            Self::Plain
        }
    }

    /// How often [`Self::progress`] is worth a call.
    pub(crate) fn refresh(&self) -> Duration {
        match self {
            Self::Drawn(_) => DRAWN_EVERY,
            Self::Plain | Self::Json => WRITTEN_EVERY,
        }
    }

    /// A line for people, or an object for programs.
    pub(crate) fn say(&self, line: &str, event: &str, mut fields: Value) {
        match self {
            Self::Drawn(bars) if !bars.bar.is_finished() => {
                let _ = bars.multi.println(line);
            }
            Self::Drawn(_) | Self::Plain => say!("{line}"),
            Self::Json => {
                fields["event"] = json!(event);
                say!("{fields}");
            }
        }
    }

    /// The node serves.
    pub(crate) fn node(&self, pid: u32, again: bool) {
        let line = if again {
            format!("node: process {pid} serves again")
        } else {
            format!("node: process {pid} serves")
        };
        self.say(&line, "node", json!({ "pid": pid, "again": again }));
    }

    /// The node is gone, though nobody asked for it.
    pub(crate) fn node_ended(&self, pid: u32, status: ExitStatus) {
        let line = format!("node: process {pid} ended ({status}); starting it again");
        self.say(&line, "node_ended", json!({ "pid": pid, "status": status.to_string() }));
    }

    /// Where to look.
    pub(crate) fn addresses(&self, addresses: &Addresses) {
        let Addresses { kafka, postgres, http } = addresses;
        let page = format!("http://{http}/views/routes");
        let psql = format!(
            "psql 'postgresql://afflux@{postgres}/afflux' -c \
             'SELECT * FROM routes ORDER BY flights DESC LIMIT 10'"
        );
        let line = format!("kafka:   {kafka}\nbrowser: {page}\npsql:    {psql}\n");
        let fields = json!({
            "kafka": kafka, "postgres": postgres, "http": http, "page": page, "psql": psql,
        });
        self.say(&line, "addresses", fields);
    }

    /// How far it has got.
    pub(crate) fn progress(&self, progress: &Progress) {
        let Progress { clock, sent, total, rate, shown, top } = progress;
        match self {
            Self::Drawn(bars) => bars.draw(progress),
            Self::Plain => {
                let busiest = top.first().map_or(String::new(), |route| {
                    format!("; busiest {}", describe(route).trim_end())
                });
                say!("{clock}: {sent} records sent, {rate:.0}/s, {shown} landings shown{busiest}");
            }
            Self::Json => say!(
                "{}",
                json!({
                    "event": "progress", "clock": clock, "sent": sent, "total": total,
                    "records_per_second": rate.round(), "landings_shown": shown,
                })
            ),
        }
    }

    /// Takes the bars away for good; lines may follow.
    pub(crate) fn close(&self) {
        if let Self::Drawn(bars) = self {
            for bar in bars.top.iter().rev().chain([&bars.bar]) {
                bar.finish_and_clear();
            }
            let _ = bars.multi.clear();
        }
    }
}

impl Bars {
    fn new() -> Self {
        let multi = MultiProgress::new();
        let bar = multi.add(ProgressBar::new(1));
        let style = |template: &str| {
            ProgressStyle::with_template(template).expect("a template that was tried")
        };
        bar.set_style(style("{prefix}  {wide_bar:.cyan/blue} {pos}/{len} records  {msg}"));
        let line = style("  {msg}");
        let top = (0..=TOP)
            .map(|_| {
                let row = multi.add(ProgressBar::new_spinner());
                row.set_style(line.clone());
                row
            })
            .collect::<Vec<_>>();
        top[0].set_message("route      flights  mean delay at arrival, minutes");
        Self { multi, bar, top }
    }

    fn draw(&self, progress: &Progress) {
        self.bar.set_prefix(progress.clock.replace('T', " ").replace(":00Z", " UTC"));
        self.bar.set_length(progress.total.unwrap_or(progress.sent).max(1));
        self.bar.set_position(progress.sent);
        self.bar.set_message(format!("{:.0}/s", progress.rate));
        self.top[0].tick();
        for (row, route) in self.top[1..].iter().zip(&progress.top) {
            row.set_message(describe(route));
        }
    }
}

fn describe(route: &Route) -> String {
    let Route { origin, dest, flights, mean_delay } = route;
    let delay = mean_delay.map_or("?".to_owned(), |delay| format!("{delay:+.1}"));
    format!("{origin}-{dest}  {flights:>8}  {delay:>10}")
}
