use afflux_catalog::{LatePolicy, Start, Watermark};
use afflux_types::TopicName;
use arrow::datatypes::Schema;

use super::*;

fn source() -> SourceInput {
    let columns = vec![Column::new(
        "at",
        DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        true,
    )];
    let source = Source {
        topic: TopicName::new("t").unwrap(),
        format: Format::Json,
        columns,
        watermark: Some(Watermark { column: 0, delay_ms: 10 }),
        start: Start::Earliest,
        idle_timeout_ms: 1000,
        late: LatePolicy::Drop,
    };
    SourceInput::new(ObjectId(1), source, 2)
}

fn reads(input: &mut SourceInput, partition: usize, latest: Option<i64>) {
    let from = input.partitions[partition].next;
    let range = Range { partition, from, to: Offset(from.0 + 1) };
    let decoded = Decoded {
        batch: RecordBatch::new_empty(Arc::new(Schema::empty())),
        latest: vec![latest.map(Timestamp)],
        dead: Vec::new(),
        records: 1,
        bytes: 0,
    };
    input.advance(&[range], &decoded);
}

#[test]
fn time_is_the_slowest_partition_that_is_not_idle() {
    enum Do {
        Read(usize, i64),
        /// The logged time, whether partitions 0 and 1 are at their ends, and what is expected.
        Look(i64, [bool; 2], i64),
    }
    use Do::{Look, Read};
    const NONE: i64 = i64::MIN;
    let check = |steps: &[Do]| {
        let mut input = source();
        for (nth, step) in steps.iter().enumerate() {
            match *step {
                Read(partition, time) => reads(&mut input, partition, Some(time)),
                Look(now, ends, expected) => {
                    let seen = input.watermark(Timestamp(now), |partition| {
                        ends[partition.partition.partition.0 as usize]
                    });
                    assert_eq!(seen, Some(Timestamp(expected)), "step {nth}");
                }
            }
        }
    };
    let end = [true, true];
    check(&[Look(0, end, NONE), Read(0, 100), Look(1, end, NONE), Read(1, 70), Look(2, end, 60)]);
    // Time never goes back.
    check(&[Read(0, 100), Read(1, 100), Look(0, end, 90), Read(0, 50), Look(1, end, 90)]);
    // An idle partition does not hold the others, from the epoch on that found it at its end.
    check(&[
        Read(0, 100),
        Look(5, end, NONE),
        Look(1004, end, NONE),
        Read(0, 200),
        Look(1005, end, 190),
    ]);
    // It does while it is held back.
    check(&[
        Read(0, 100),
        Look(5, [true, false], NONE),
        Read(0, 200),
        Look(1005, [true, false], NONE),
        Look(1006, end, NONE),
        Read(0, 300),
        Look(2005, end, NONE),
        Read(0, 400),
        Look(2006, end, 390),
    ]);
    // When it comes back, what is below time is late: it holds the others at where they were.
    check(&[
        Read(0, 100),
        Look(0, end, NONE),
        Read(0, 200),
        Look(1000, end, 190),
        Read(1, 50),
        Read(0, 300),
        Look(1001, end, 190),
        Read(1, 250),
        Look(1002, end, 240),
    ]);
    // If all are idle, time stands still.
    check(&[Read(0, 100), Read(1, 50), Look(0, end, 40), Look(5000, end, 40)]);
}

#[test]
fn the_logged_watermarks_alone_tell_the_sources() {
    let mut input = source();
    reads(&mut input, 0, Some(100));
    input.watermark(Timestamp(0), |_| true);
    reads(&mut input, 0, Some(200));
    assert_eq!(input.watermark(Timestamp(1000), |_| true), Some(Timestamp(190)));
    let mut again = source();
    for (nth, partition) in input.partitions.iter().enumerate() {
        again.restore(nth, partition.next, partition.watermark);
    }
    assert_eq!(again.watermark(Timestamp(1000), |_| true), Some(Timestamp(190)));
}

#[test]
fn a_deadline_is_when_waiting_would_help() {
    let mut input = source();
    assert_eq!(input.idle_deadline(), None);
    reads(&mut input, 0, Some(100));
    input.watermark(Timestamp(7), |_| true);
    assert_eq!(input.idle_deadline(), Some(Timestamp(1007)));
    input.watermark(Timestamp(1007), |_| true);
    // Now both are idle, and time stands: there is nothing to wait for.
    assert_eq!(input.idle_deadline(), None);
}

#[test]
fn event_times_of_every_unit_are_milliseconds() {
    use arrow::array::{
        TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
        TimestampSecondArray,
    };
    let check = |array: &dyn Array, expected: Option<i64>| {
        assert_eq!(latest_of(array).map(|time| time.0), expected);
    };
    check(&TimestampSecondArray::from(vec![Some(2), None, Some(1)]), Some(2000));
    check(&TimestampMillisecondArray::from(vec![Some(-5), None]), Some(-5));
    check(&TimestampMicrosecondArray::from(vec![1999, -1]), Some(1));
    check(&TimestampMicrosecondArray::from(vec![-1]), Some(-1));
    check(&TimestampNanosecondArray::from(vec![1_999_999]), Some(1));
    check(&TimestampNanosecondArray::from(vec![None]), None);
}
