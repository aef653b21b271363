//! The catalog as a fold of changes, and the encoding of a change: what was once written has to
//! stay readable.

use std::collections::BTreeMap;

use afflux_catalog::{
    Catalog, CatalogError, Change, Format, LatePolicy, Object, ObjectKind, Source, Start, Table,
    View, Watermark,
};
use afflux_plan::{Column, Expr, Operator, OperatorKind, Plan};
use afflux_types::{Classified, ErrorKind, ObjectId, Offset, OperatorId, TopicName};
use arrow::datatypes::{DataType, TimeUnit};

const V1: &str = include_str!("fixtures/ddl-v1.ndjson");

fn columns() -> Vec<Column> {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    vec![Column::new("flight", DataType::Int32, false), Column::new("ts", time, true)]
}

fn create(id: u64, name: &str, kind: ObjectKind) -> Change {
    let sql = format!("CREATE … {name}");
    Change::Create(Box::new(Object { id: ObjectId(id), name: name.to_owned(), sql, kind }))
}

fn source(id: u64, name: &str) -> Change {
    let source = Source {
        topic: TopicName::new("departures").expect("a name"),
        format: Format::Json,
        columns: columns(),
        watermark: Some(Watermark { column: 1, delay_ms: 5_000 }),
        start: Start::Earliest,
        idle_timeout_ms: 30_000,
        late: LatePolicy::Drop,
    };
    create(id, name, ObjectKind::Source(source))
}

fn table(id: u64, name: &str) -> Change {
    create(id, name, ObjectKind::Table(Table { columns: columns(), rows: 16, key: None }))
}

/// A view that shows the numbers of an object's rows.
fn view(id: u64, name: &str, reads: u64) -> Change {
    let operator = |id, kind, inputs, columns| Operator {
        id: OperatorId(id),
        kind,
        inputs,
        columns,
        append_only: true,
    };
    let object = ObjectId(reads);
    let read = operator(0, OperatorKind::View { object }, vec![], columns());
    let exprs = vec![Expr::Column(0)];
    let flights = columns()[..1].to_vec();
    let project = operator(1, OperatorKind::Project { exprs }, vec![OperatorId(0)], flights);
    let plan = Plan { version: Plan::VERSION, operators: vec![read, project], key: None };
    create(id, name, ObjectKind::View(View { plan, starts: BTreeMap::new() }))
}

/// What the fixture holds: every kind of change.
fn changes() -> Vec<Change> {
    vec![
        source(1, "departures"),
        table(2, "airlines"),
        view(3, "flights", 1),
        Change::Drop { id: ObjectId(2) },
    ]
}

fn fold(changes: &[Change]) -> Catalog {
    changes
        .iter()
        .fold(Catalog::default(), |catalog, change| catalog.apply(change).expect("the change fits"))
}

#[test]
fn version_1_stays_readable() {
    let read: Vec<_> =
        V1.lines().map(|line| Catalog::decode(line.as_bytes()).expect(line)).collect();
    assert_eq!(read, changes());
}

#[test]
fn version_1_is_written_as_it_was() {
    let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
    for (change, line) in changes().iter().zip(V1.lines()) {
        assert_eq!(value(&Catalog::encode(change)), value(line.as_bytes()));
    }
}

#[test]
fn where_a_view_begins_is_part_of_it() {
    let Change::Create(mut object) = view(3, "flights", 1) else { panic!() };
    let ObjectKind::View(view) = &mut object.kind else { panic!() };
    view.starts.insert(ObjectId(1), vec![Offset(5), Offset(0)]);
    let change = Change::Create(object);
    let bytes = Catalog::encode(&change);
    assert!(String::from_utf8_lossy(&bytes).contains("\"starts\":{\"1\":[5,0]}"));
    assert_eq!(Catalog::decode(&bytes).expect("readable"), change);
}

#[test]
fn keys_of_tables_read_back() {
    let keyed = Table { columns: columns(), rows: 16, key: Some(vec![1, 0]) };
    let change = create(1, "t", ObjectKind::Table(keyed));
    assert_eq!(Catalog::decode(&Catalog::encode(&change)), Ok(change));
}

#[test]
fn plans_that_can_not_run_are_refused() {
    let text = String::from_utf8(Catalog::encode(&view(3, "v", 1))).expect("JSON");
    let check = |from: &str, to: &str, expected: &str| {
        assert!(text.contains(from), "{text}");
        let error = Catalog::decode(text.replace(from, to).as_bytes()).expect_err(expected);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(expected), "{error}");
    };
    check("\"version\":1", "\"version\":2", "the plan has version 2");
    check("\"inputs\":[0]", "\"inputs\":[7]", "not before it");
}

#[test]
fn bytes_that_are_no_change_are_refused() {
    for bytes in
        [&b""[..], b"{}", b"{\"create\":{}}", b"{\"alter\":{\"id\":1}}", b"{\"drop\":{\"id\":1}} x"]
    {
        let error = Catalog::decode(bytes).expect_err("no change");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn a_catalog_is_what_its_changes_made() {
    let catalog = fold(&changes());
    let names: Vec<_> = catalog.objects().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["departures", "flights"]);
    assert_eq!(catalog.find("departures").expect("there").columns(), columns());
    assert_eq!(catalog.get(ObjectId(3)).expect("there").columns(), &columns()[..1]);
    assert!(catalog.find("airlines").is_none());
    assert!(catalog.find("Departures").is_none(), "names are folded before they come here");
    let readers = catalog.readers(ObjectId(1));
    assert_eq!(readers.iter().map(|view| view.id).collect::<Vec<_>>(), [ObjectId(3)]);
}

#[test]
fn ids_are_never_used_again() {
    assert_eq!(Catalog::default().next_id(), ObjectId(1));
    let catalog = fold(&[source(1, "a"), source(7, "b")]);
    assert_eq!(catalog.next_id(), ObjectId(8));
    let catalog = catalog.apply(&Change::Drop { id: ObjectId(7) }).expect("nothing reads it");
    assert_eq!(catalog.next_id(), ObjectId(8));
}

#[test]
fn a_change_makes_a_new_catalog() {
    let before = fold(&[source(1, "a")]);
    let after = before.apply(&table(2, "b")).expect("it fits");
    assert_eq!((before.objects().count(), after.objects().count()), (1, 2));
}

#[test]
fn changes_that_do_not_fit() {
    let catalog = fold(&[source(1, "s"), view(2, "v", 1), view(3, "w", 2)]);
    let check = |change: &Change, kind: ErrorKind, expected: &CatalogError, hint: Option<&str>| {
        let error = catalog.apply(change).expect_err("it does not fit");
        assert_eq!((&error, error.kind()), (expected, kind));
        assert_eq!(error.hint().as_deref(), hint, "{error}");
    };
    let exists = CatalogError::Exists("s".to_owned());
    check(&table(4, "s"), ErrorKind::AlreadyExists, &exists, None);
    let taken = CatalogError::Exists("t".to_owned());
    check(&table(1, "t"), ErrorKind::AlreadyExists, &taken, None);
    let unknown = CatalogError::Unknown("object 9".to_owned());
    check(&Change::Drop { id: ObjectId(9) }, ErrorKind::NotFound, &unknown, None);
    let in_use = CatalogError::InUse { name: "v".to_owned(), users: vec!["w".to_owned()] };
    check(&Change::Drop { id: ObjectId(2) }, ErrorKind::Invalid, &in_use, Some("drop w first"));
}
