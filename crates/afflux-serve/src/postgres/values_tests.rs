//! What clients see of each type, taken from a PostgreSQL 15 with its default settings.

use std::sync::Arc;

use arrow::{
    array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, DurationSecondArray, Float32Array,
        Float64Array, Int32Array, IntervalMonthDayNanoArray, IntervalYearMonthArray, ListArray,
        NullArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
        TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
    },
    buffer::OffsetBuffer,
    datatypes::{Field, IntervalMonthDayNano},
};

use super::*;

fn written(column: &ArrayRef, format: FieldFormat) -> Result<Vec<u8>, &'static str> {
    let mut out = BytesMut::new();
    write(column, 0, format, &mut out).map_err(|error| error.sqlstate)?;
    Ok(out.to_vec())
}

#[track_caller]
fn check(column: impl Array + 'static, expected: &str) {
    let mut framed = (expected.len() as i32).to_be_bytes().to_vec();
    framed.extend(expected.as_bytes());
    let actual = written(&(Arc::new(column) as ArrayRef), FieldFormat::Text).unwrap();
    assert_eq!(String::from_utf8_lossy(&actual), String::from_utf8_lossy(&framed));
}

/// `expected` in hexadecimal, without the length.
#[track_caller]
fn check_binary(column: impl Array + 'static, expected: &str) {
    let actual = written(&(Arc::new(column) as ArrayRef), FieldFormat::Binary).unwrap();
    let expected = expected.replace(' ', "");
    let expected: Vec<u8> = (0..expected.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&expected[at..at + 2], 16).expect("hexadecimal"))
        .collect();
    assert_eq!(actual[4..], expected);
    assert_eq!(actual[..4], (actual.len() as i32 - 4).to_be_bytes());
}

fn list(elements: impl Array + 'static) -> ListArray {
    let field = Field::new_list_field(elements.data_type().clone(), true);
    let offsets = OffsetBuffer::from_lengths([elements.len()]);
    ListArray::new(Arc::new(field), offsets, Arc::new(elements), None)
}

fn interval(months: i32, days: i32, micros: i64) -> IntervalMonthDayNanoArray {
    vec![IntervalMonthDayNano::new(months, days, micros * 1_000)].into()
}

#[test]
fn timestamps_have_no_more_fraction_than_they_need() {
    let millis = |value: i64| TimestampMillisecondArray::from(vec![value]);
    check(millis(1_357_034_400_000), "2013-01-01 10:00:00");
    check(millis(1_357_034_400_120), "2013-01-01 10:00:00.12");
    check(millis(-1), "1969-12-31 23:59:59.999");
    check(millis(1_357_034_400_000).with_timezone("UTC"), "2013-01-01 10:00:00+00");
    check(millis(1_357_034_400_500).with_timezone("UTC"), "2013-01-01 10:00:00.5+00");
    let micros = |value: i64| TimestampMicrosecondArray::from(vec![value]);
    check(micros(1), "1970-01-01 00:00:00.000001");
    check(TimestampNanosecondArray::from(vec![1_999]), "1970-01-01 00:00:00.000001");
    check(TimestampNanosecondArray::from(vec![-1]), "1969-12-31 23:59:59.999999");
    check(TimestampSecondArray::from(vec![253_402_300_800]), "10000-01-01 00:00:00");
    check(TimestampSecondArray::from(vec![-62_135_596_801]), "0001-12-31 23:59:59 BC");
    let zoned = TimestampSecondArray::from(vec![-62_135_596_801]).with_timezone("UTC");
    check(zoned, "0001-12-31 23:59:59+00 BC");
    // No time is too far away to be shown.
    check(millis(i64::MAX), "292278994-08-17 07:12:55.807");
}

#[test]
fn dates_times_and_intervals() {
    check(Date32Array::from(vec![15_706]), "2013-01-01");
    check(Date32Array::from(vec![-719_163]), "0001-12-31 BC");
    let time = |micros: i64| Time64MicrosecondArray::from(vec![micros]);
    check(time(0), "00:00:00");
    check(time(37_020_500_000), "10:17:00.5");
    check(interval(0, 0, 0), "00:00:00");
    check(interval(14, 3, 14_706_789_000), "1 year 2 mons 3 days 04:05:06.789");
    check(interval(1, 1, 0), "1 mon 1 day");
    check(interval(-14, 3, -14_706_000_000), "-1 years -2 mons +3 days -04:05:06");
    check(interval(-1, 0, 1_000_000), "-1 mons +00:00:01");
    check(interval(0, 0, 360_000_000_000), "100:00:00");
    check(interval(0, 0, -500_000), "-00:00:00.5");
    check(IntervalYearMonthArray::from(vec![25]), "2 years 1 mon");
    check(DurationSecondArray::from(vec![90]), "00:01:30");
}

#[test]
fn numbers() {
    let double = |value: f64| Float64Array::from(vec![value]);
    check(double(0.0), "0");
    check(double(-0.0), "-0");
    check(double(1.5), "1.5");
    check(double(100.0), "100");
    check(double(0.1 + 0.2), "0.30000000000000004");
    check(double(0.0001), "0.0001");
    check(double(0.000_012), "1.2e-05");
    check(double(123_456_789_012_345.0), "123456789012345");
    check(double(1e15), "1e+15");
    check(double(-1.25e300), "-1.25e+300");
    check(double(f64::NAN), "NaN");
    check(double(f64::INFINITY), "Infinity");
    check(double(f64::NEG_INFINITY), "-Infinity");
    let real = |value: f32| Float32Array::from(vec![value]);
    check(real(0.1), "0.1");
    check(real(123_456.0), "123456");
    check(real(1e6), "1e+06");
    check(real(1.234_567_9e8), "1.2345679e+08");
    let decimal = Decimal128Array::from(vec![-12_345]).with_precision_and_scale(38, 2).unwrap();
    check(decimal, "-123.45");
    check(Int32Array::from(vec![-7]), "-7");
    check(BooleanArray::from(vec![true]), "t");
    check(BooleanArray::from(vec![false]), "f");
}

#[test]
fn text_bytes_and_null() {
    check(StringArray::from(vec!["NULL"]), "NULL");
    check(BinaryArray::from(vec![&[0, 10, 255][..]]), "\\x000aff");
    for format in [FieldFormat::Text, FieldFormat::Binary] {
        for null in [
            Arc::new(StringArray::from(vec![None::<&str>])) as ArrayRef,
            Arc::new(IntervalYearMonthArray::from(vec![None])),
            Arc::new(NullArray::new(1)),
        ] {
            assert_eq!(written(&null, format).unwrap(), [0xff; 4]);
        }
    }
}

#[test]
fn arrays_quote_what_needs_it() {
    check(list(Int32Array::from(vec![Some(1), None, Some(-3)])), "{1,NULL,-3}");
    check(list(Int32Array::from(Vec::<i32>::new())), "{}");
    check(list(NullArray::new(2)), "{NULL,NULL}");
    check(
        list(StringArray::from(vec!["a", "", "null", "b c", "d,e", "\"", "\\", "{}", "é"])),
        r#"{a,"","null","b c","d,e","\"","\\","{}",é}"#,
    );
    check(list(BinaryArray::from(vec![&[1][..]])), r#"{"\\x01"}"#);
    check(list(BooleanArray::from(vec![true, false])), "{t,f}");
    check(list(TimestampSecondArray::from(vec![1_357_034_400])), r#"{"2013-01-01 10:00:00"}"#);
    // As many digits as the type has.
    let most = 10_i128.pow(38) - 1;
    let decimals = Decimal128Array::from(vec![most]).with_precision_and_scale(38, 0).unwrap();
    check(list(decimals), "{99999999999999999999999999999999999999}");
}

#[test]
fn binary_is_laid_out_as_postgres_sends_it() {
    check_binary(BooleanArray::from(vec![true]), "01");
    check_binary(Int32Array::from(vec![-2]), "fffffffe");
    check_binary(Float64Array::from(vec![1.5]), "3ff8000000000000");
    check_binary(StringArray::from(vec!["é"]), "c3a9");
    check_binary(Date32Array::from(vec![15_706]), "0000128d");
    check_binary(Time64MicrosecondArray::from(vec![37_020_500_000]), "00000008 9e980020");
    // 2000-01-01 00:00:00.000001 and a microsecond before 2000.
    let micros = |value: i64| TimestampMicrosecondArray::from(vec![value]);
    check_binary(micros(946_684_800_000_001), "0000000000000001");
    check_binary(micros(946_684_799_999_999), "ffffffffffffffff");
    check_binary(interval(14, 3, 1), "0000000000000001 00000003 0000000e");
    let decimal = Decimal128Array::from(vec![125_000]).with_precision_and_scale(10, 4).unwrap();
    check_binary(decimal, "0002 0000 0000 0004 000c 1388");
    check_binary(
        list(Int32Array::from(vec![Some(1), None])),
        "00000001 00000001 00000017 00000002 00000001 00000004 00000001 ffffffff",
    );
    check_binary(list(Int32Array::from(Vec::<i32>::new())), "00000000 00000000 00000017");
    let most = 10_i128.pow(38) - 1;
    let decimals = Decimal128Array::from(vec![most]).with_precision_and_scale(38, 0).unwrap();
    check_binary(
        list(decimals),
        "00000001 00000000 000006a4 00000001 00000001 0000001c 000a 0009 0000 0000 \
         0063 270f 270f 270f 270f 270f 270f 270f 270f 270f",
    );
}

#[test]
fn what_postgres_can_not_count_is_an_error_in_binary() {
    let check = |column: ArrayRef| {
        assert_eq!(written(&column, FieldFormat::Binary), Err("22008"));
    };
    check(Arc::new(TimestampSecondArray::from(vec![i64::MAX])));
    check(Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN])));
    check(Arc::new(Date32Array::from(vec![i32::MIN])));
    check(Arc::new(DurationSecondArray::from(vec![i64::MAX])));
}
