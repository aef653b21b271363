use arrow::{array::AsArray, datatypes::TimeUnit};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::json::rows;

fn fields() -> Vec<Field> {
    vec![
        Field::new("i", DataType::Int64, true),
        Field::new("small", DataType::Int8, true),
        Field::new("u", DataType::UInt64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("b", DataType::Boolean, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("t", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true),
        Field::new("d", DataType::Date32, true),
        Field::new("n", DataType::Decimal128(6, 2), true),
    ]
}

fn decoder() -> Decoder {
    Decoder::new(&fields()).unwrap()
}

/// The row as JSON without its nulls, or the reason.
fn decode(record: &str) -> Result<String, String> {
    let decoded = decoder().decode(&[Some(record.as_bytes())]);
    match decoded.rejected.first() {
        Some(rejected) => Err(rejected.reason.clone()),
        None => Ok(without_nulls(&rows(&decoded.batch)[0])),
    }
}

fn without_nulls(row: &str) -> String {
    let mut value: Value = serde_json::from_str(row).unwrap();
    value.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    value.to_string()
}

#[test]
fn good_records() {
    let check = |record: &str, expected: &str| {
        assert_eq!(decode(record).as_deref(), Ok(expected), "{record}");
    };
    check("{}", "{}");
    check(" {\n} ", "{}");
    check(r#"{"i":1}"#, r#"{"i":1}"#);
    check(r#"{"i":null,"f":null,"s":null,"b":null,"t":null,"n":null}"#, "{}");
    check(r#"{"i":-9223372036854775808}"#, r#"{"i":-9223372036854775808}"#);
    check(r#"{"i":12.0}"#, r#"{"i":12}"#);
    check(r#"{"i":1e3}"#, r#"{"i":1000}"#);
    check(r#"{"u":18446744073709551615}"#, r#"{"u":18446744073709551615}"#);
    check(r#"{"f":0.1}"#, r#"{"f":0.1}"#);
    check(r#"{"f":5}"#, r#"{"f":5.0}"#);
    check(r#"{"f":-0.0}"#, r#"{"f":-0.0}"#);
    check(r#"{"f":2.2250738585072011e-308}"#, r#"{"f":2.225073858507201e-308}"#);
    check(r#"{"f":1e-400}"#, r#"{"f":0.0}"#);
    check(r#"{"b":true}"#, r#"{"b":true}"#);
    check(r#"{"s":""}"#, r#"{"s":""}"#);
    check(r#"{"s":"é \u00e9 \ud83d\ude00 \n"}"#, "{\"s\":\"é é 😀 \\n\"}");
    check(r#"{"\u0073":"x"}"#, r#"{"s":"x"}"#);
    check(r#"{"t":"2013-01-01T10:17:00Z"}"#, r#"{"t":"2013-01-01T10:17:00Z"}"#);
    check(r#"{"t":"2013-01-01T10:17:00"}"#, r#"{"t":"2013-01-01T10:17:00Z"}"#);
    check(r#"{"t":"2013-01-01\u005410:17:00+01:00"}"#, r#"{"t":"2013-01-01T09:17:00Z"}"#);
    check(r#"{"t":1357035420000}"#, r#"{"t":"2013-01-01T10:17:00Z"}"#);
    check(r#"{"d":"2013-01-01"}"#, r#"{"d":"2013-01-01"}"#);
    check(r#"{"n":1.005}"#, r#"{"n":1.01}"#);
    check(r#"{"n":"-12.5"}"#, r#"{"n":-12.5}"#);
    check(r#"{"x":[1,{"y":[]},"]"],"i":2,"z":{}}"#, r#"{"i":2}"#);
    check("\t{ \"i\" :\r\n 1 , \"s\" : \"x\" }\n", r#"{"i":1,"s":"x"}"#);
}

#[test]
fn bad_records_say_why() {
    let check = |record: &str, reason: &str| {
        assert_eq!(decode(record), Err(reason.to_owned()), "{record}");
    };
    check("", "not JSON: it is empty at byte 0");
    check("  ", "not JSON: it is empty at byte 2");
    check("[]", "not JSON: expected an object at byte 0");
    check("1", "not JSON: expected an object at byte 0");
    check("null", "not JSON: expected an object at byte 0");
    check("{", "not JSON: expected a name at byte 1");
    check(r#"{"i":1"#, "not JSON: expected , or } at byte 6");
    check(r#"{"i":1,}"#, "not JSON: expected a name at byte 7");
    check(r#"{"i" 1}"#, "not JSON: expected : at byte 5");
    check(r#"{"i":}"#, "not JSON: expected a value at byte 5");
    check(r#"{"i":01}"#, "not JSON: a number that begins with 0 at byte 7");
    check(r#"{"i":-}"#, "not JSON: expected a digit at byte 6");
    check(r#"{"i":1.}"#, "not JSON: expected a digit at byte 7");
    check(r#"{"i":1e}"#, "not JSON: expected a digit at byte 7");
    check(r#"{"i":+1}"#, "not JSON: expected a value at byte 5");
    check(r#"{"i":nul}"#, "not JSON: expected a value at byte 5");
    check(r#"{"i":1}{"i":2}"#, "not JSON: something follows the object at byte 7");
    check(r#"{"i":1} x"#, "not JSON: something follows the object at byte 8");
    check("{\"s\":\"a\nb\"}", "not JSON: a control character in text at byte 7");
    check(r#"{"s":"a"#, "not JSON: text without an end at byte 7");
    check(r#"{"s":"a\"#, "not JSON: text without an end at byte 8");
    check(r#"{"s":"\x"}"#, "not JSON: an unknown escape at byte 9");
    check(r#"{"s":"\ud800"}"#, "not JSON: an escape that is no character at byte 13");
    check(r#"{"s":"\u12"}"#, "not JSON: an escape that is no character at byte 11");
    check(r#"{"x":"\x"}"#, "not JSON: an unknown escape at byte 9");
    check(r#"{"x":[1}"#, "not JSON: expected , or ] at byte 7");
    check(r#"{"i":"1"}"#, "field \"i\": expected an integer, found text");
    check(r#"{"i":true}"#, "field \"i\": expected an integer, found a boolean");
    check(r#"{"i":[1]}"#, "field \"i\": expected an integer, found an array");
    check(r#"{"i":1.5}"#, "field \"i\": expected an integer, found 1.5");
    check(r#"{"i":9223372036854775808}"#, "field \"i\": 9223372036854775808 is out of range");
    check(r#"{"i":1e19}"#, "field \"i\": 1e19 is out of range");
    check(r#"{"i":1e999999999999}"#, "field \"i\": 1e999999999999 is out of range");
    check(r#"{"small":128}"#, "field \"small\": 128 is out of range");
    check(r#"{"u":-1}"#, "field \"u\": -1 is out of range");
    check(r#"{"f":1e309}"#, "field \"f\": 1e309 is out of range");
    check(r#"{"f":"1"}"#, "field \"f\": expected a number, found text");
    check(r#"{"b":1}"#, "field \"b\": expected true or false, found a number");
    check(r#"{"s":1}"#, "field \"s\": expected text, found a number");
    check(r#"{"s":{}}"#, "field \"s\": expected text, found an object");
    check(r#"{"t":"soon"}"#, "field \"t\": \"soon\" is not a time that this column holds");
    check(r#"{"t":1e30}"#, "field \"t\": 1e30 is out of range");
    check(r#"{"d":5}"#, "field \"d\": expected a date, found a number");
    check(r#"{"n":12345}"#, "field \"n\": 12345 is out of range");
    check(r#"{"n":"1x"}"#, "field \"n\": \"1x\" is not a number");
    check(r#"{"i":1,"i":2}"#, "field \"i\" occurs twice");
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(200), "]".repeat(200));
    check(&deep, "not JSON: values nest too deep at byte 133");
}

#[test]
fn other_bad_records() {
    let decoded = decoder().decode(&[None, Some(b"{\"s\":\"\xff\"}"), Some(b"{\"i\":1}")]);
    let reasons: Vec<_> = decoded.rejected.iter().map(|r| (r.record, r.reason.as_str())).collect();
    let expected = [(0, "a record without a value (tombstone)"), (1, "not JSON: not UTF-8 text")];
    assert_eq!(reasons, expected);
    assert_eq!(decoded.rows, [2]);

    let mut strict = Decoder::new(&[Field::new("i", DataType::Int64, false)]).unwrap();
    let decoded = strict.decode(&[Some(b"{}"), Some(b"{\"i\":null}"), Some(b"{\"i\":3}")]);
    let reasons: Vec<_> = decoded.rejected.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["field \"i\" is missing", "field \"i\": null, where the column has no nulls"]
    );
    assert_eq!(decoded.batch.num_rows(), 1);
}

#[test]
fn a_column_without_json_form_is_refused() {
    let error = Decoder::new(&[Field::new("x", DataType::Binary, true)]).unwrap_err();
    assert_eq!(error.to_string(), "column \"x\" has type Binary, which can not be read from JSON");
}

#[test]
fn every_kind_of_text_column_decodes() {
    for data_type in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
        let mut decoder = Decoder::new(&[Field::new("s", data_type, true)]).unwrap();
        let decoded = decoder.decode(&[Some(br#"{"s":"long enough to be out of line"}"#)]);
        assert_eq!(rows(&decoded.batch), [r#"{"s":"long enough to be out of line"}"#]);
    }
}

/// Records, most of them good, with fields in any order.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        any::<i64>().prop_map(|v| v.to_string()),
        any::<f64>().prop_map(|v| format!("{v:?}")),
        any::<String>().prop_map(|v| Value::String(v).to_string()),
        Just("true".to_owned()),
        Just("null".to_owned()),
        Just("\"2013-01-01T00:00:00Z\"".to_owned()),
        Just("[1,{\"a\":2}]".to_owned()),
    ];
    let name = prop_oneof![Just("i"), Just("f"), Just("b"), Just("s"), Just("t"), Just("x")];
    let object = proptest::collection::vec((name, value), 0..5).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
        format!("{{{}}}", members.join(",")).into_bytes()
    });
    let cut = (object.clone(), any::<prop::sample::Index>()).prop_map(|(mut bytes, at)| {
        bytes.truncate(at.index(bytes.len()));
        bytes
    });
    prop_oneof![5 => object, 1 => cut, 1 => any::<Vec<u8>>()]
}

proptest! {
    #[test]
    fn a_batch_decodes_as_its_records_do(records in proptest::collection::vec(record(), 0..30)) {
        let payloads: Vec<_> = records.iter().map(|record| Some(record.as_slice())).collect();
        let together = decoder().decode(&payloads);
        let (mut one_by_one, mut rejected, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for (index, payload) in payloads.iter().enumerate() {
            let decoded = decoder().decode(&[*payload]);
            one_by_one.push(decoded.batch);
            kept.extend(decoded.rows.iter().map(|_| index as u32));
            rejected.extend(decoded.rejected.into_iter().map(|r| Rejected { record: index as u32, ..r }));
        }
        let one_by_one = arrow::compute::concat_batches(together.batch.schema_ref(), &one_by_one).unwrap();
        prop_assert_eq!(together.batch, one_by_one);
        prop_assert_eq!(together.rows, kept);
        prop_assert_eq!(together.rejected, rejected);
    }

    // `serde_json` says what is JSON and what a number or a text means.
    #[test]
    fn what_serde_json_reads_is_read_alike(record in record()) {
        let decoded = decoder().decode(&[Some(&record)]);
        let reference: Option<serde_json::Map<String, Value>> = serde_json::from_slice(&record).ok();
        match (decoded.rejected.first(), reference) {
            (None, None) => prop_assert!(false, "took {:?}", String::from_utf8_lossy(&record)),
            (Some(rejected), Some(_)) => prop_assert!(rejected.reason.starts_with("field"), "{}", rejected.reason),
            (Some(_), None) => {}
            (None, Some(object)) => {
                let s = decoded.batch.column_by_name("s").unwrap().as_string::<i32>();
                prop_assert_eq!(s.iter().next().unwrap(), object.get("s").and_then(Value::as_str));
                let f = decoded.batch.column_by_name("f").unwrap().as_primitive::<arrow::datatypes::Float64Type>();
                let f = f.iter().next().unwrap();
                let expected = object.get("f").and_then(Value::as_f64);
                // serde_json rounds some doubles to a neighbour.
                let close = |(a, b): (f64, f64)| (a - b).abs() <= a.abs() * f64::EPSILON;
                prop_assert!(f == expected || f.zip(expected).is_some_and(close), "{f:?} {expected:?}");
            }
        }
    }
}
