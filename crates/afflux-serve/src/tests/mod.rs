//! Both listeners on loopback, in front of a fake node.

mod browser;
mod chromium;
mod clients;
mod engine;
mod fake;
mod http;
mod postgres;

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

use crate::{ServeOptions, Serving, start};
use fake::FakeNode;

/// A source, a view with a key and a table.
const SETUP: &str = "
    CREATE SOURCE flights (carrier VARCHAR, delay DOUBLE, at TIMESTAMP(3))
        WITH (topic = 'departures', format = 'json');
    CREATE MATERIALIZED VIEW carriers AS
        SELECT carrier, count(*) AS flights, avg(delay) AS delay FROM flights GROUP BY carrier;
";

fn rows(rows: &[(&str, i64, Option<f64>)]) -> Vec<ArrayRef> {
    vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(Float64Array::from(rows.iter().map(|row| row.2).collect::<Vec<_>>())),
    ]
}

/// A node with two rows in its view, served on free ports.
async fn served() -> (Arc<FakeNode>, Serving) {
    served_with(|_| {}).await
}

async fn served_with(change: impl FnOnce(&mut ServeOptions)) -> (Arc<FakeNode>, Serving) {
    let node = FakeNode::new();
    node.ddl(SETUP);
    node.change("carriers", rows(&[("AA", 7, Some(1.5)), ("UA", 3, None)]), vec![1, 1]);
    let loopback = "127.0.0.1:0".parse().unwrap();
    let mut options =
        ServeOptions { postgres: loopback, http: loopback, ..ServeOptions::default() };
    change(&mut options);
    let env = afflux_env::real::env();
    let serving = start(&env, Arc::clone(&node) as Arc<_>, options).await.unwrap();
    (node, serving)
}

#[tokio::test]
async fn a_taken_port_is_named_and_what_to_do() {
    use afflux_types::Classified;
    let (_node, serving) = served().await;
    let options = ServeOptions {
        postgres: "127.0.0.1:0".parse().unwrap(),
        http: serving.http_address(),
        ..ServeOptions::default()
    };
    let outcome = start(&afflux_env::real::env(), FakeNode::new(), options).await;
    let error = outcome.err().expect("the port is taken");
    let address = serving.http_address();
    assert_eq!(
        error.to_string(),
        format!("can not listen for HTTP clients at {address}: another process uses the port")
    );
    assert!(error.hint().unwrap().contains("--http 127.0.0.1:0"), "{:?}", error.hint());
}
