//! The proof: both views computed again in one batch, and compared row by row.
//!
//! Shares no code with the engine: the table of flights is folded by plain loops, and the views'
//! answers are read as any client reads them, over HTTP.

use std::collections::HashMap;

use serde_json::Value;

use crate::{
    demo::flights::{self, Flight, Topic},
    failure::{Failure, Status},
    http::{Node, Row},
};

/// How many differences are told.
const DIFFERENCES_TOLD: usize = 10;
/// Two floating-point means are the same if they differ by no more than this part of themselves:
/// reading a number back from its decimal digits may cost the last bit.
const PART: f64 = 1e-12;

/// Count, sum and maximum of what is known in a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Group {
    flights: u64,
    known: i64,
    sum: i64,
    worst: Option<i64>,
}

impl Group {
    fn add(&mut self, delay: Option<i64>) {
        self.flights += 1;
        if let Some(delay) = delay {
            self.known += 1;
            self.sum += delay;
            self.worst = self.worst.max(Some(delay));
        }
    }

    fn mean(&self) -> Option<f64> {
        (self.known > 0).then(|| self.sum as f64 / self.known as f64)
    }
}

/// What the views must hold.
pub(crate) struct Expected {
    /// By carrier and first minute of the hour.
    carrier_hours: HashMap<(String, i64), Group>,
    /// By origin and destination.
    routes: HashMap<(String, String), Group>,
}

/// Computes both views of the first `records` records of the replay.
pub(crate) fn recompute(flights: &[Flight], records: u64) -> Expected {
    let mut expected = Expected { carrier_hours: HashMap::new(), routes: HashMap::new() };
    let events = flights::events(flights);
    for number in 0..records {
        let event = events[(number % events.len() as u64) as usize];
        let year = (number / events.len() as u64) as i32;
        let flight = &flights[event.flight as usize];
        match event.topic {
            Topic::Departures => {
                let at = event.at + flights::shift(event.at, year);
                let hour = at - at.rem_euclid(60);
                let key = (flight.carrier.clone(), hour);
                expected.carrier_hours.entry(key).or_default().add(flight.dep_delay);
            }
            Topic::Arrivals => {
                let key = (flight.origin.clone(), flight.dest.clone());
                expected.routes.entry(key).or_default().add(flight.arr_delay);
            }
        }
    }
    expected
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Rows that both sides have, and are the same.
    pub(crate) rows_equal: u64,
    /// The first differences, each in a sentence.
    pub(crate) differences: Vec<String>,
    /// How many there are.
    pub(crate) differences_count: u64,
}

impl Outcome {
    fn differs(&mut self, text: impl FnOnce() -> String) {
        self.differences_count += 1;
        if self.differences.len() < DIFFERENCES_TOLD {
            self.differences.push(text());
        }
    }
}

/// Reads both views from the node and compares every row.
pub(crate) fn compare(node: &Node, expected: Expected) -> Result<Outcome, Failure> {
    let airlines = airlines();
    let mut outcome = Outcome::default();
    compare_view(
        node,
        "SELECT carrier, airline, window_start, window_end, flights, mean_delay, worst_delay \
         FROM carrier_hours",
        expected.carrier_hours,
        |row| Some((text(row, "carrier")?, minute(row, "window_start")?)),
        |(carrier, hour), group, row| {
            text(row, "airline").as_deref() == airlines.get(carrier).map(String::as_str)
                && minute(row, "window_end") == Some(hour + 60)
                && same(row.get("flights"), Some(group.flights as f64))
                && same(row.get("mean_delay"), group.mean())
                && same(row.get("worst_delay"), group.worst.map(|worst| worst as f64))
        },
        &mut outcome,
    )?;
    compare_view(
        node,
        "SELECT origin, dest, flights, mean_delay FROM routes",
        expected.routes,
        |row| Some((text(row, "origin")?, text(row, "dest")?)),
        |_, group, row| {
            same(row.get("flights"), Some(group.flights as f64))
                && same(row.get("mean_delay"), group.mean())
        },
        &mut outcome,
    )?;
    Ok(outcome)
}

fn compare_view<K: std::hash::Hash + Eq + std::fmt::Debug>(
    node: &Node,
    query: &str,
    mut expected: HashMap<K, Group>,
    key: impl Fn(&Row) -> Option<K>,
    equal: impl Fn(&K, &Group, &Row) -> bool,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let mut rows = node.query(query)?;
    while let Some(row) = rows.next_row()? {
        let Some(key) = key(&row) else {
            return Err(Failure::new(
                Status::Failed,
                format!("a row without its key in the answer to {query}: {row:?}"),
            ));
        };
        match expected.remove(&key) {
            Some(group) if equal(&key, &group, &row) => outcome.rows_equal += 1,
            Some(group) => outcome.differs(|| {
                let mean = group.mean();
                format!("{key:?}: the batch has {group:?} with mean {mean:?}, the view {row:?}")
            }),
            None => {
                outcome.differs(|| format!("{key:?}: the view has it, the batch has not, or once"));
            }
        }
    }
    for (key, group) in expected {
        outcome.differs(|| format!("{key:?}: the batch has {group:?}, the view has no such row"));
    }
    Ok(())
}

/// The sums of the views' counts: departures and arrivals that they show.
pub(crate) fn totals(node: &Node) -> Result<(u64, u64), Failure> {
    let total = |view: &str| {
        let mut rows = node.query(&format!("SELECT sum(flights) AS flights FROM {view}"))?;
        let row = rows.next_row()?;
        // The sum over no rows is null.
        let value = row.as_ref().and_then(|row| row.get("flights")).and_then(Value::as_u64);
        Ok::<_, Failure>(value.unwrap_or(0))
    };
    Ok((total("carrier_hours")?, total("routes")?))
}

fn airlines() -> HashMap<String, String> {
    let rows = csv::Reader::from_reader(flights::AIRLINES.as_bytes());
    rows.into_deserialize().filter_map(Result::ok).collect()
}

fn text(row: &Row, column: &str) -> Option<String> {
    row.get(column)?.as_str().map(str::to_owned)
}

/// A time to the minute, as minutes since 1970.
fn minute(row: &Row, column: &str) -> Option<i64> {
    flights::minutes_of(row.get(column)?.as_str()?)
}

fn same(value: Option<&Value>, expected: Option<f64>) -> bool {
    match (value, expected) {
        (Some(Value::Null), None) => true,
        (Some(value), Some(expected)) => {
            value.as_f64().is_some_and(|value| (value - expected).abs() <= expected.abs() * PART)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_year_adds_up() {
        let flights = flights::flights(None).expect("the table");
        let all = flights::events(&flights).len() as u64;
        assert_eq!(all, 328_521 + 328_063);
        let expected = recompute(&flights, all);
        let departures: u64 = expected.carrier_hours.values().map(|group| group.flights).sum();
        let arrivals: u64 = expected.routes.values().map(|group| group.flights).sum();
        assert_eq!((departures, arrivals), (328_521, 328_063));
        // Added up with awk over the raw table.
        let route = expected.routes[&("JFK".to_owned(), "LAX".to_owned())];
        assert_eq!((route.flights, route.known, route.sum), (11_182, 11_159, -5_363));
        let united = expected.carrier_hours.iter().filter(|((carrier, _), _)| carrier == "UA");
        let united = united.fold((0, 0, 0), |(flights, sum, worst), (_, group)| {
            (flights + group.flights, sum + group.sum, worst.max(group.worst.unwrap_or(0)))
        });
        assert_eq!(united, (57_979, 701_898, 483));
        assert!(airlines().len() == 16 && airlines()["UA"] == "United Air Lines Inc.");
    }

    #[test]
    fn values_are_compared_as_numbers_and_null_is_null() {
        let check = |value: &str, expected: Option<f64>, equal: bool| {
            let value = serde_json::from_str(value).expect("JSON");
            assert_eq!(same(Some(&value), expected), equal, "{value} {expected:?}");
        };
        check("2", Some(2.0), true);
        check("2.5", Some(2.5), true);
        check("2.5000001", Some(2.5), false);
        check("0", Some(0.0), true);
        check("null", None, true);
        check("0", None, false);
        check("null", Some(0.0), false);
        check("\"2\"", Some(2.0), false);
        assert!(!same(None, None));
    }
}
