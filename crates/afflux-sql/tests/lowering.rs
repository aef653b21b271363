//! Queries and the plans that they become, as text.

mod fixture;

use fixture::{catalog, plan_text};

fn check(sql: &str, expected: &str) {
    let text = plan_text(sql, &catalog()).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let lines: Vec<_> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let expected: Vec<_> = expected.lines().filter(|line| !line.trim().is_empty()).collect();
    let margin = expected.iter().map(|line| indent(line)).min().unwrap_or(0);
    let expected: Vec<_> = expected.iter().map(|line| line[margin..].trim_end()).collect();
    assert_eq!(lines, expected, "{sql}\n{text}");
}

#[test]
fn a_filter_and_a_projection_read_only_what_they_need() {
    check(
        "SELECT flight, delay FROM departures WHERE delay > 15 AND carrier = 'UA'",
        "
        View: no key, append-only
          Project: flight, delay
            Filter: ((delay > 15.0) AND (carrier = 'UA'))
              Source departures: flight Int32!, carrier Utf8, delay Float64
        ",
    );
}
