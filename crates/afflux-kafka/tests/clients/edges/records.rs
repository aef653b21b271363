//! Batches whose headers and checksums are right, and whose records are not what they say.

use afflux_record::{Compression, batch::HEADER_BYTES, fuzzing::mended_batch};
use kafka_protocol::messages::ApiVersionsRequest;

use super::{Asked, TOPIC, batch, produce, text};

/// A batch of a codec that begins at an offset and says that it has records up to another, and how
/// many.
fn forged(codec: Compression, base: u8, (last, count): (i32, i32), records: &[u8]) -> Vec<u8> {
    let mut bytes = batch(None, false)[..HEADER_BYTES].to_vec();
    bytes[7] = base;
    bytes[22] = codec.code() as u8;
    bytes[23..27].copy_from_slice(&last.to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    bytes.extend(codec.pack(records).unwrap());
    mended_batch(&bytes).unwrap().to_vec()
}

/// A record with a key and a value of one byte, at an offset.
fn record(offset: u8) -> Vec<u8> {
    vec![16, 0, 0, offset * 2, 2, b'k', 2, b'v', 0]
}

impl Asked {
    pub(super) fn records(&mut self) {
        let all = |records: &[u8]| [record(0), records.to_vec()].concat();
        let two = all(&record(1));
        for codec in [Compression::None, Compression::Gzip] {
            let mut check = |what: &str, base: u8, header: (i32, i32), records: &[u8]| {
                let what = format!("{what}, {}", codec.name());
                let bytes = forged(codec, base, header, records);
                self.ask(&what, 9, &produce(TOPIC, 0, -1, bytes));
            };
            check("two records", 0, (1, 2), &two);
            check("nothing for very many", 0, (i32::MAX, i32::MAX), &[]);
            check("nothing for many", 0, (i32::MAX - 1, i32::MAX), &[]);
            check("one missing", 0, (2, 3), &two);
            check("one too many", 0, (0, 1), &two);
            check("more offsets than records", 0, (2, 2), &two);
            check("no records", 0, (0, 0), &[]);
            check("fewer than no records", 0, (0, -1), &two);
            check("from an offset on", 5, (1, 2), &two);
            check("a byte behind", 0, (1, 2), &[&two[..], &[0]].concat());
            check("a byte too few", 0, (1, 2), &two[..two.len() - 1]);
            check("an offset twice", 0, (1, 2), &all(&record(0)));
            check("turned round", 0, (1, 2), &[record(1), record(0)].concat());
            check("an offset behind the last", 0, (1, 2), &all(&record(2)));
            for (what, at, byte) in [
                ("no length", 0, 1),
                ("empty", 0, 0),
                ("too long", 0, 18),
                ("too short", 0, 14),
                ("a key that ends behind it", 4, 100),
                ("a value that ends behind it", 6, 6),
                ("fewer headers than none", 8, 1),
                ("a header that is not there", 8, 2),
            ] {
                let mut second = record(1);
                second[at] = byte;
                check(what, 0, (1, 2), &all(&second));
            }
        }
        // KIP-110.
        let packed = forged(Compression::Zstd, 0, (1, 2), &two);
        for version in [3, 6, 7] {
            for name in [TOPIC, "edges-zstd"] {
                let request = produce(name, 0, -1, packed.clone());
                self.ask(&format!("zstd to {name}"), version, &request);
            }
        }
    }

    /// What clients say that they are (KIP-511).
    pub(super) fn names(&mut self) {
        for (name, version) in [
            ("afflux", "1.0"),
            ("a", "1"),
            ("", "1"),
            ("a", ""),
            ("-a", "1"),
            ("a", "1."),
            ("a b", "1"),
            ("a", "1_2"),
            ("a.b-c", "1.2-rc.3"),
        ] {
            for of in [2, 3, 4] {
                let request = if of < 3 {
                    ApiVersionsRequest::default()
                } else {
                    ApiVersionsRequest::default()
                        .with_client_software_name(text(name))
                        .with_client_software_version(text(version))
                };
                self.ask(&format!("{name:?} {version:?}"), of, &request);
            }
        }
    }
}
