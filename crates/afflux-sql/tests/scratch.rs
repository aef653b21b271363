mod fixture;
#[test]
fn scratch() {
    let catalog = fixture::catalog();
    let text = std::fs::read_to_string("/tmp/scratch.sql").unwrap();
    for sql in text.split(";\n") {
        if sql.trim().is_empty() {
            continue;
        }
        println!("-- {}", sql.trim());
        match fixture::plan_text(sql, &catalog) {
            Ok(text) => println!("{text}"),
            Err(e) => println!(
                "ERROR {:?} {} {} hint={:?}\n",
                afflux_types::Classified::kind(&e),
                e.sqlstate(),
                e,
                afflux_types::Classified::hint(&e)
            ),
        }
    }
}
