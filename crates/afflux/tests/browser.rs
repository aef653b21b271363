//! The live page of a whole node in a browser: records that a client sends show as rows.

#[path = "../../afflux-serve/src/tests/chromium.rs"]
mod chromium;
mod support;

use chromium::Browser;
use support::{Node, run_with};

#[tokio::test]
async fn records_show_as_rows_while_one_watches() {
    let node = Node::start();
    node.run(&["topic", "create", "orders"]).ok();
    let produce = |lines: &str| {
        run_with(&mut node.command(&["produce", "orders"]), lines).ok();
    };
    let statements = "CREATE SOURCE orders (name VARCHAR NOT NULL, cents INT NOT NULL)
            WITH (topic = 'orders', format = 'json');
        CREATE MATERIALIZED VIEW totals AS
            SELECT name, count(*) AS n, sum(cents) AS cents FROM orders GROUP BY name;";
    node.run(&["sql", "-c", statements]).ok();
    produce("{\"name\":\"tea\",\"cents\":250}\n");

    let browser = Browser::open(&format!("http://{}/views/totals", node.http)).await;
    let mut page = browser.page().await;
    page.until_table("tea 1 250").await;
    produce("{\"name\":\"tea\",\"cents\":50}\n{\"name\":\"cake\",\"cents\":400}\n");
    page.until_table("cake 1 400; tea 2 300").await;
}
