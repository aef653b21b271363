//! The year's flights: the table, and the records that it becomes.
//!
//! Not here: sending, and checking what came of it.
//!
//! 1. [`flights`] reads the table that the binary carries.
//! 2. [`Timeline::new`] makes the events of it, a departure and a landing at most for each flight,
//!    sorted by time over both topics, and encodes each of them once.
//! 3. [`Timeline::record`] gives the n-th record for any n: when the year is over it begins again,
//!    a year later. Only the four digits of the year are written anew.
//!
//! A year ends with landings of flights that left before its end, half an hour into the first
//! departures of the next. Each topic stays in event-time order across that seam, so no record is
//! late; between the two topics the order is off by that half hour.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

const TABLE: &[u8] = include_bytes!("../../../../examples/flights/flights.csv.zst");

/// The airlines by carrier code, as CSV.
pub(crate) const AIRLINES: &str = include_str!("../../../../examples/flights/airlines.csv");
/// The sources and views.
pub(crate) const SQL: &str = include_str!("../../../../examples/flights/flights.sql");

/// The year of the data.
pub(crate) const FIRST_YEAR: i32 = 2013;
/// What a day has.
pub(crate) const MINUTES_A_DAY: i64 = 24 * 60;

/// One row of the table.
#[expect(clippy::struct_field_names, reason = "the table calls the number of a flight so")]
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Flight {
    /// Scheduled departure, `2013-01-01T10:15Z`.
    pub(crate) scheduled: String,
    /// The airline's code.
    pub(crate) carrier: String,
    /// The flight's number.
    pub(crate) flight: u32,
    /// The plane. Empty for some cancelled flights.
    pub(crate) tailnum: String,
    /// From where.
    pub(crate) origin: String,
    /// To where.
    pub(crate) dest: String,
    /// Miles.
    pub(crate) distance: u32,
    /// Minutes behind the schedule; none for a cancelled flight.
    pub(crate) dep_delay: Option<i64>,
    /// Minutes behind the schedule; none if not known.
    pub(crate) arr_delay: Option<i64>,
    /// Minutes to the landing; none if there was none.
    pub(crate) duration: Option<i64>,
}

impl Flight {
    /// When it left, in minutes since 1970.
    pub(crate) fn departed(&self) -> Option<i64> {
        Some(minutes_of(&self.scheduled)? + self.dep_delay?)
    }

    /// When it landed, in minutes since 1970.
    pub(crate) fn landed(&self) -> Option<i64> {
        Some(self.departed()? + self.duration?)
    }
}

/// The flights of the year, or those that left in its first days, in scheduled order.
pub(crate) fn flights(days: Option<u32>) -> Result<Vec<Flight>> {
    let damaged = "the table of flights in this binary is damaged";
    let end =
        days.map_or(i64::MAX, |days| (days_of(FIRST_YEAR, 1, 1) + i64::from(days)) * MINUTES_A_DAY);
    let table = zstd::Decoder::new(TABLE).context(damaged)?;
    let mut flights = Vec::new();
    for row in csv::Reader::from_reader(table).into_deserialize() {
        let row: Flight = row.context(damaged)?;
        // No flight leaves a day before it is scheduled.
        if minutes_of(&row.scheduled).context(damaged)? >= end.saturating_add(MINUTES_A_DAY) {
            break;
        }
        if row.departed().is_some_and(|departed| departed < end) {
            flights.push(row);
        }
    }
    Ok(flights)
}

/// Where a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Topic {
    /// Planes that left.
    Departures,
    /// Planes that landed.
    Arrivals,
}

impl Topic {
    /// The topic's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Departures => "departures",
            Self::Arrivals => "arrivals",
        }
    }
}

/// What happens at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    /// Minutes since 1970, in the year of the data.
    pub(crate) at: i64,
    /// Where its record goes.
    pub(crate) topic: Topic,
    /// Index into the flights.
    pub(crate) flight: u32,
}

/// The events of the flights in event-time order over both topics.
pub(crate) fn events(flights: &[Flight]) -> Vec<Event> {
    let mut events = Vec::with_capacity(flights.len() * 2);
    for (flight, row) in (0..).zip(flights) {
        if let Some(at) = row.departed() {
            events.push(Event { at, topic: Topic::Departures, flight });
        }
        if let Some(at) = row.landed() {
            events.push(Event { at, topic: Topic::Arrivals, flight });
        }
    }
    events.sort_by_key(|event| (event.at, event.topic, event.flight));
    events
}

/// One record, ready to be sent.
pub(crate) struct Record<'a> {
    /// Where it goes.
    pub(crate) topic: Topic,
    /// The tail number.
    pub(crate) key: &'a [u8],
    /// A JSON object.
    pub(crate) payload: &'a [u8],
    /// Event time, milliseconds since 1970.
    pub(crate) timestamp: i64,
    /// Index of its route in [`Timeline::routes`].
    pub(crate) route: u16,
}

struct Encoded {
    /// Where its bytes begin in the arena: the key, then the payload.
    start: u32,
    key_len: u8,
    payload_len: u8,
    topic: Topic,
    route: u16,
    at: i64,
}

/// Every record of the replay, by number.
pub(crate) struct Timeline {
    arena: Vec<u8>,
    encoded: Vec<Encoded>,
    routes: Vec<(String, String)>,
}

/// `{"ts":"` stands before the year.
const YEAR_AT: usize = 7;

impl Timeline {
    /// The records of some flights.
    pub(crate) fn new(flights: &[Flight]) -> Result<Self> {
        let mut routes = HashMap::new();
        for Flight { origin, dest, .. } in flights {
            let next = routes.len() as u16;
            routes.entry((origin.as_str(), dest.as_str())).or_insert(next);
        }
        let events = events(flights);
        let mut arena = Vec::with_capacity(events.len() * 150);
        let mut encoded = Vec::with_capacity(events.len());
        for event in events {
            let row = &flights[event.flight as usize];
            let start = u32::try_from(arena.len()).context("too many flights")?;
            arena.extend_from_slice(row.tailnum.as_bytes());
            let payload_at = arena.len();
            encode(&mut arena, event, row);
            encoded.push(Encoded {
                start,
                key_len: u8::try_from(row.tailnum.len())?,
                payload_len: u8::try_from(arena.len() - payload_at)?,
                topic: event.topic,
                route: routes[&(row.origin.as_str(), row.dest.as_str())],
                at: event.at,
            });
        }
        ensure!(!encoded.is_empty(), "no flight left in those days");
        let mut by_number = vec![(String::new(), String::new()); routes.len()];
        for (route, number) in routes {
            by_number[number as usize] = (route.0.to_owned(), route.1.to_owned());
        }
        Ok(Self { arena, encoded, routes: by_number })
    }

    /// How many records a year has.
    pub(crate) fn records_a_year(&self) -> u64 {
        self.encoded.len() as u64
    }

    /// Origin and destination of every route.
    pub(crate) fn routes(&self) -> &[(String, String)] {
        &self.routes
    }

    /// When the first record happens, in minutes since 1970.
    pub(crate) fn begins(&self) -> i64 {
        self.encoded[0].at
    }

    /// When the n-th record happens, in minutes since the first.
    pub(crate) fn minutes_until(&self, number: u64) -> i64 {
        let (year, index) = self.split(number);
        let at = self.encoded[index].at;
        at + shift(at, year) - self.encoded[0].at
    }

    /// The n-th record, from 0 on; `scratch` holds its payload.
    pub(crate) fn record<'a>(&'a self, number: u64, scratch: &'a mut Vec<u8>) -> Record<'a> {
        let (year, index) = self.split(number);
        let Encoded { start, key_len, payload_len, topic, route, at } = self.encoded[index];
        let (key, rest) = self.arena[start as usize..].split_at(key_len as usize);
        let mut payload = &rest[..payload_len as usize];
        if year > 0 {
            scratch.clear();
            scratch.extend_from_slice(payload);
            let digits = &mut scratch[YEAR_AT..YEAR_AT + 4];
            let mut value = digits.iter().fold(0, |value, b| value * 10 + (b - b'0') as i32) + year;
            for digit in digits.iter_mut().rev() {
                *digit = b'0' + (value % 10) as u8;
                value /= 10;
            }
            payload = scratch;
        }
        Record { topic, key, payload, timestamp: (at + shift(at, year)) * 60_000, route }
    }

    fn split(&self, number: u64) -> (i32, usize) {
        let len = self.encoded.len() as u64;
        ((number / len) as i32, (number % len) as usize)
    }
}

fn encode(out: &mut Vec<u8>, event: Event, row: &Flight) {
    use std::io::Write;

    let delay = match event.topic {
        Topic::Departures => row.dep_delay,
        Topic::Arrivals => row.arr_delay,
    };
    let Flight { carrier, flight, tailnum, origin, dest, distance, .. } = row;
    let ts = instant_of(event.at);
    write!(
        out,
        "{{\"ts\":\"{ts}\",\"carrier\":\"{carrier}\",\"flight\":{flight},\"tailnum\":\"{tailnum}\",\
         \"origin\":\"{origin}\",\"dest\":\"{dest}\",\"distance\":{distance},\"delay\":"
    )
    .and_then(|()| match delay {
        Some(delay) => write!(out, "{delay}}}"),
        None => write!(out, "null}}"),
    })
    .expect("a vector takes all bytes");
}

/// How many minutes lie between a moment of the data and the same date and time so many years on.
///
/// What is not the same for every date is whether a leap day lies between; from March on to the
/// end of the next February one answer holds, before March another.
pub(crate) fn shift(at: i64, years: i32) -> i64 {
    let month = if at >= days_of(FIRST_YEAR, 3, 1) * MINUTES_A_DAY { 3 } else { 1 };
    (days_of(FIRST_YEAR + years, month, 1) - days_of(FIRST_YEAR, month, 1)) * MINUTES_A_DAY
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
pub(crate) fn days_of(year: i32, month: i32, day: i32) -> i64 {
    // Years are counted from March, so that a leap day is the last of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * m + 2) / 5 + day - 1;
    let leap_days = y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    (365 * y + leap_days + day_of_year) as i64 - 719_468
}

/// The date of a number of days since 1970-01-01.
fn date_of(days: i64) -> (i32, i32, i32) {
    let mut year = 1970 + (days / 366) as i32;
    while days_of(year + 1, 1, 1) <= days {
        year += 1;
    }
    let month = (2..=12).take_while(|m| days_of(year, *m, 1) <= days).last().unwrap_or(1);
    (year, month, (days - days_of(year, month, 1)) as i32 + 1)
}

/// Minutes since 1970 of `2013-01-01T10:15…`; none if the text is no such time.
pub(crate) fn minutes_of(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i32>().ok();
    let days = days_of(number(0..4)?, number(5..7)?, number(8..10)?);
    Some(days * MINUTES_A_DAY + (number(11..13)? * 60 + number(14..16)?) as i64)
}

/// `2013-01-01T10:15:00Z` of minutes since 1970.
pub(crate) fn instant_of(minutes: i64) -> String {
    let (year, month, day) = date_of(minutes.div_euclid(MINUTES_A_DAY));
    let minute = minutes.rem_euclid(MINUTES_A_DAY);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:00Z", minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_and_texts_are_each_other() {
        let check = |minutes: i64, text: &str| {
            assert_eq!(instant_of(minutes), text);
            assert_eq!(minutes_of(text), Some(minutes));
        };
        check(0, "1970-01-01T00:00:00Z");
        check(59, "1970-01-01T00:59:00Z");
        check(365 * MINUTES_A_DAY, "1971-01-01T00:00:00Z");
        check(days_of(2000, 2, 29) * MINUTES_A_DAY, "2000-02-29T00:00:00Z");
        check(days_of(2013, 12, 31) * MINUTES_A_DAY + 1439, "2013-12-31T23:59:00Z");
        check(days_of(2400, 3, 1) * MINUTES_A_DAY, "2400-03-01T00:00:00Z");
        assert_eq!(minutes_of("2013-01"), None);
        assert_eq!(minutes_of("when ready, really"), None);
    }

    #[test]
    fn a_record_is_a_flight_as_json() {
        let timeline = Timeline::new(&flights(Some(1)).expect("the table")).expect("flights");
        let mut scratch = Vec::new();
        let mut check = |number: u64, topic: Topic, key: &str, payload: &str| {
            let record = timeline.record(number, &mut scratch);
            assert_eq!(record.topic, topic);
            assert_eq!(record.key, key.as_bytes());
            assert_eq!(String::from_utf8_lossy(record.payload), payload);
        };
        check(
            0,
            Topic::Departures,
            "N14228",
            r#"{"ts":"2013-01-01T10:17:00Z","carrier":"UA","flight":1545,"tailnum":"N14228","origin":"EWR","dest":"IAH","distance":1400,"delay":2}"#,
        );
        check(
            timeline.records_a_year() * 3,
            Topic::Departures,
            "N14228",
            r#"{"ts":"2016-01-01T10:17:00Z","carrier":"UA","flight":1545,"tailnum":"N14228","origin":"EWR","dest":"IAH","distance":1400,"delay":2}"#,
        );
    }

    #[test]
    fn every_topic_is_in_order_over_the_years() {
        let timeline = Timeline::new(&flights(None).expect("the table")).expect("flights");
        let mut scratch = Vec::new();
        let mut last = [i64::MIN; 2];
        for number in 0..timeline.records_a_year() * 4 {
            let record = timeline.record(number, &mut scratch);
            let at = std::str::from_utf8(record.payload)
                .ok()
                .and_then(|payload| minutes_of(&payload[7..]))
                .expect("a record begins with its time");
            assert_eq!(at * 60_000, record.timestamp, "record {number}");
            let last = &mut last[record.topic as usize];
            assert!(*last <= at, "record {number}");
            *last = at;
        }
    }
}
