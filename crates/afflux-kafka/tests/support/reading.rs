//! What a consumer makes of the batches that it is given.

use std::collections::HashMap;

use afflux_record::{Header, Marker, Record};
use afflux_types::{Offset, ProducerId};
use bytes::Bytes;

/// The records that a client shows. With `aborted`, each the first offset of a producer's
/// transaction that was, it leaves out what belongs to those.
pub(crate) fn visible(batches: &[Bytes], aborted: &[(ProducerId, Offset)]) -> Vec<Record> {
    let mut open: HashMap<ProducerId, Vec<Offset>> = HashMap::new();
    for (producer, first) in aborted {
        open.entry(*producer).or_default().push(*first);
    }
    let mut seen = Vec::new();
    for batch in batches {
        let header = Header::parse(batch).unwrap();
        let firsts = open.entry(header.producer_id).or_default();
        let is_aborted = firsts.iter().any(|first| *first <= header.base_offset);
        if header.is_control() {
            // The first of those that have begun ends here.
            if Marker::of(&header, batch) == Some(Marker::Abort) && is_aborted {
                firsts.remove(0);
            }
            continue;
        }
        if header.is_transactional() && is_aborted {
            continue;
        }
        seen.extend(afflux_record::records(batch).map(Result::unwrap));
    }
    seen
}
