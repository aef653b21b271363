//! The client's side of a node's HTTP: statements, and the changes of a view.
//!
//! Not here: what is done with the rows.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    time::Duration,
};

use afflux_types::ErrorKind;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use crate::failure::{Failure, Status};

/// The longest line of an answer that is taken, in bytes.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// A node, by its HTTP address.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    agent: ureq::Agent,
    address: String,
}

/// One row of an answer: its columns in the answer's order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row(pub(crate) Vec<(String, Value)>);

impl Row {
    /// The value of a column.
    pub(crate) fn get(&self, column: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == column).map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Row;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row: one JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut columns = Vec::with_capacity(map.size_hint().unwrap_or(8));
                while let Some(column) = map.next_entry()? {
                    columns.push(column);
                }
                Ok(Row(columns))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// What a node says of an error.
#[derive(Debug, Deserialize)]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Debug, Deserialize)]
struct ErrorBody {
    kind: String,
    message: String,
    hint: Option<String>,
    position: Option<Position>,
}

#[derive(Debug, Deserialize)]
struct Position {
    line: u64,
    column: u64,
}

impl ErrorBody {
    fn failure(self) -> Failure {
        let message = match self.position {
            Some(Position { line, column }) => {
                format!("{} (line {line}, column {column})", self.message)
            }
            None => self.message,
        };
        let mut failure = Failure::new(Status::Failed, message);
        if self.kind == ErrorKind::Unavailable.to_string() {
            failure = failure.passing();
        }
        match self.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl Node {
    /// The node at HOST:PORT. Nothing is sent yet.
    pub(crate) fn new(address: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(5)))
            .build()
            .into();
        Self { agent, address: address.to_owned() }
    }

    /// Runs one statement. The rows are read as they come.
    pub(crate) fn query(&self, statement: &str) -> Result<Rows, Failure> {
        let answer = self
            .agent
            .post(format!("http://{}/v1/sql", self.address))
            .send_json(serde_json::json!({ "query": statement }))
            .map_err(|error| self.unreachable(&error))?;
        Ok(Rows { lines: self.accepted(answer)?, line: String::new() })
    }

    /// Follows a view from a token on, or from its present rows.
    pub(crate) fn changes(&self, view: &str, resume: Option<&str>) -> Result<Changes, Failure> {
        let mut request = self
            .agent
            .get(format!("http://{}/v1/views/{view}/changes", self.address))
            .header("Accept", "text/event-stream");
        if let Some(token) = resume {
            request = request.header("Last-Event-ID", token);
        }
        let answer = request.call().map_err(|error| self.unreachable(&error))?;
        Ok(Changes { lines: self.accepted(answer)? })
    }

    fn accepted(&self, answer: ureq::http::Response<ureq::Body>) -> Result<Lines, Failure> {
        let status = answer.status();
        let mut reader = answer.into_body().into_reader();
        if status.is_success() {
            return Ok(Lines(BufReader::with_capacity(1 << 16, Box::new(reader))));
        }
        let mut text = String::new();
        let read = (&mut reader).take(1 << 20).read_to_string(&mut text);
        Err(match (read, serde_json::from_str::<ErrorAnswer>(&text)) {
            (Ok(_), Ok(answer)) => answer.error.failure(),
            _ => Failure::new(
                Status::Failed,
                format!("the node at {} answered {status}: {}", self.address, text.trim()),
            ),
        })
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        Failure::new(
            Status::Unreachable,
            format!("the node at http://{} can not be reached: {error}", self.address),
        )
        .hint("start one with `afflux up`, or name its address with --http HOST:PORT")
    }
}

/// The lines of an answer.
struct Lines(BufReader<Box<dyn Read + Send>>);

impl Lines {
    /// Reads the next line into `line`, without its end; false at the end of the answer.
    fn next(&mut self, line: &mut String) -> Result<bool, Failure> {
        line.clear();
        let read = (&mut self.0).take(LINE_BYTES_MAX).read_line(line).map_err(|error| {
            Failure::new(Status::Unreachable, format!("the node broke off its answer: {error}"))
        })?;
        if line.ends_with('\n') {
            line.truncate(line.trim_end_matches(['\r', '\n']).len());
        } else if read > 0 {
            return Err(Failure::new(Status::Unreachable, "the node broke off its answer"));
        }
        Ok(read > 0)
    }
}

/// The rows of an answer, as they come.
pub(crate) struct Rows {
    lines: Lines,
    line: String,
}

impl Rows {
    /// The next row as the node wrote it: one JSON object.
    pub(crate) fn next_line(&mut self) -> Result<Option<&str>, Failure> {
        if !self.lines.next(&mut self.line)? {
            return Ok(None);
        }
        // An error after the first rows can only come in a line of its own.
        if self.line.starts_with("{\"error\":{")
            && let Ok(answer) = serde_json::from_str::<ErrorAnswer>(&self.line)
        {
            return Err(answer.error.failure());
        }
        Ok(Some(&self.line))
    }

    /// The next row.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row>, Failure> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        serde_json::from_str(line)
            .map(Some)
            .map_err(|error| Failure::new(Status::Failed, format!("{line:?} is no row: {error}")))
    }
}

/// One server-sent event of a view.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// `snapshot`, `changes` or `reset`.
    pub(crate) kind: String,
    /// Where to resume behind this event; none in the middle of a long snapshot.
    pub(crate) id: Option<String>,
    /// The JSON text.
    pub(crate) data: String,
}

/// The changes of a view, as they come.
pub(crate) struct Changes {
    lines: Lines,
}

impl Changes {
    /// The next event; none when the node ends the stream.
    pub(crate) fn next_event(&mut self) -> Result<Option<Event>, Failure> {
        let mut event = Event::default();
        let mut line = String::new();
        while self.lines.next(&mut line)? {
            if line.is_empty() {
                if !event.data.is_empty() {
                    return Ok(Some(event));
                }
                event = Event::default();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut event.kind),
                "id" => event.id = Some(value.to_owned()),
                "data" => {
                    if !event.data.is_empty() {
                        event.data.push('\n');
                    }
                    event.data.push_str(value);
                }
                // Comments keep the connection alive; other fields mean nothing here.
                _ => {}
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static str) -> Lines {
        Lines(BufReader::new(Box::new(text.as_bytes())))
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let check = |text, expected: &[(&str, Option<&str>, &str)]| {
            let mut changes = Changes { lines: lines(text) };
            let mut events = Vec::new();
            while let Some(event) = changes.next_event().expect("a whole stream") {
                events.push(event);
            }
            let expected: Vec<_> = expected
                .iter()
                .map(|(kind, id, data)| Event {
                    kind: (*kind).to_owned(),
                    id: id.map(ToOwned::to_owned),
                    data: (*data).to_owned(),
                })
                .collect();
            assert_eq!(events, expected, "{text:?}");
        };
        check("", &[]);
        check(": alive\n\n", &[]);
        check("event: changes\nid: 1-2\ndata: {}\n\n", &[("changes", Some("1-2"), "{}")]);
        check("data:a\r\ndata: b\r\n\r\n", &[("", None, "a\nb")]);
        check(
            "event: snapshot\ndata: 1\n\n: alive\n\nevent: snapshot\nid: t\ndata: 2\n\n",
            &[("snapshot", None, "1"), ("snapshot", Some("t"), "2")],
        );
        // A stream that ends within an event has not delivered it.
        check("event: changes\ndata: {}\n", &[]);
    }

    #[test]
    fn rows_keep_the_order_of_columns() {
        let mut rows = Rows { lines: lines("{\"b\":1,\"a\":null}\n{\"b\":2"), line: String::new() };
        let row = rows.next_row().expect("a whole line").expect("a row");
        assert_eq!(row.0, vec![("b".to_owned(), Value::from(1)), ("a".to_owned(), Value::Null)]);
        assert_eq!(row.get("a"), Some(&Value::Null));
        assert!(rows.next_row().is_err(), "half a row is no row");
    }

    #[test]
    fn an_error_behind_rows_is_an_error() {
        let text = "{\"n\":1}\n{\"error\":{\"kind\":\"invalid\",\"message\":\"lost\",\"hint\":null,\"position\":null}}\n";
        let mut rows = Rows { lines: lines(text), line: String::new() };
        assert!(rows.next_row().expect("a row").is_some());
        assert_eq!(rows.next_row().expect_err("an error").to_string(), "lost");
    }
}
