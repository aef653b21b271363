//! Pages that are made from the code say what it says.

use std::path::Path;

fn check(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("AFFLUX_WRITE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/{name} is stale: AFFLUX_WRITE_DOCS=1 writes it anew");
}

#[test]
fn topic_settings_are_those_of_their_declaration() {
    check("topic-settings.md", &afflux_log::settings::page());
}

#[test]
fn kafka_compatibility_is_that_of_the_served_requests() {
    check("kafka-compatibility.md", &afflux_kafka::compatibility_page());
}
