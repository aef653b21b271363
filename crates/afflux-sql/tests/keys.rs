//! The keys of views: declared by tables, carried through joins.

mod fixture;

use fixture::{catalog, check, plan_text};

#[test]
fn a_join_on_a_primary_key_keeps_the_key() {
    check(
        "SELECT c.carrier, c.n, a.city FROM per_carrier c LEFT JOIN airports a ON a.code = c.carrier",
        "
        View: key (carrier)
          Project: carrier, n, city
            Lookup airports (left): carrier = code
              Project: carrier, n
                View per_carrier: carrier Utf8, n Int64!, mean Float64
        ",
    );
    check(
        "SELECT d.dest, a.city, d.n FROM
         (SELECT dest, count(*) AS n FROM departures GROUP BY dest) d
         JOIN airports a ON a.code = d.dest AND a.city <> 'Rome'",
        "
        View: key (dest)
          Project: dest, city, n
            Filter: (city <> 'Rome')
              Lookup airports (inner): dest = code
                Aggregate: group (dest) compute count(*) [state 0]
                  Source departures: dest Utf8
        ",
    );
    check(
        "SELECT c.carrier, g.gate FROM per_carrier c JOIN gates g
         ON g.airport = c.carrier AND g.gate = c.n",
        "
        View: key (carrier)
          Project: carrier, gate
            Lookup gates (inner): carrier = airport AND _2 = gate
              Project: carrier, n, TRY_CAST(n AS Int32) AS _2
                View per_carrier: carrier Utf8, n Int64!, mean Float64
        ",
    );
    // A part of the key, and a column that is none.
    for (table, on, column) in [("gates", "g.airport", "gate"), ("airlines", "g.code", "name")] {
        let sql = format!(
            "SELECT c.carrier, g.{column} FROM per_carrier c JOIN {table} g ON {on} = c.carrier"
        );
        let text = plan_text(&sql, &catalog()).expect("plans");
        assert!(text.starts_with("View: no key\n"), "{text}");
    }
    // A table's own.
    let text = plan_text("SELECT city, code FROM airports", &catalog()).expect("plans");
    assert!(text.starts_with("View: key (code), append-only\n"), "{text}");
}
