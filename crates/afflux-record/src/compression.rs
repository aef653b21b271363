//! The four codecs of a v2 batch's records, each bounded when it unpacks.
//!
//! Not here: the choice of a codec. A batch is stored as its producer sent it; only who needs
//! the records themselves unpacks them.

use std::io::{Read, Write};

use bytes::Bytes;

use crate::batch::BatchError;

/// The most bytes that the records of one batch may unpack to.
pub const UNPACKED_BYTES_MAX: usize = 64 << 20;

/// The most a window of zstd may need: 2^27 bytes, what its strongest level writes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// No snappy element expands more than this: 3 bytes copy at most 64.
const SNAPPY_RATIO_MAX: usize = 64;

/// How snappy-java begins a stream: a magic, then a version and the oldest compatible one.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
/// How much snappy-java puts into one block.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// How the records of a batch are packed. The numbers are those of the batch's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy blocks, framed as snappy-java does or one bare block.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// Each of them, by its number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number of the batch's attributes.
    pub fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec of a number, if there is one.
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|codec| codec.code() == code)
    }

    /// Its name in Kafka's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Packs the bytes.
    pub fn pack(self, plain: &[u8]) -> Result<Vec<u8>, BatchError> {
        let failed = |reason: String| BatchError::Packing { codec: self.name(), reason };
        match self {
            Self::None => Ok(plain.to_vec()),
            Self::Gzip => {
                let mut out =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                out.write_all(plain).and_then(|()| out.finish()).map_err(|e| failed(e.to_string()))
            }
            Self::Snappy => pack_xerial(plain).map_err(|e| failed(e.to_string())),
            Self::Lz4 => {
                let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
                out.write_all(plain).map_err(|e| failed(e.to_string()))?;
                out.finish().map_err(|e| failed(e.to_string()))
            }
            Self::Zstd => zstd::stream::encode_all(plain, 0).map_err(|e| failed(e.to_string())),
        }
    }

    /// Unpacks the bytes, to at most `bytes_max`. Without compression they are only shared.
    pub fn unpack(self, packed: &Bytes, bytes_max: usize) -> Result<Bytes, BatchError> {
        let failed = |reason: String| BatchError::Unpacking { codec: self.name(), reason };
        match self {
            Self::None if packed.len() > bytes_max => {
                Err(BatchError::UnpacksTooLarge { bytes_max })
            }
            Self::None => Ok(packed.clone()),
            Self::Gzip => self.drain(flate2::read::MultiGzDecoder::new(packed.as_ref()), bytes_max),
            Self::Snappy => unpack_snappy(packed, bytes_max),
            Self::Lz4 => self.drain(lz4_flex::frame::FrameDecoder::new(packed.as_ref()), bytes_max),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed.as_ref())
                    .map_err(|e| failed(e.to_string()))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|e| failed(e.to_string()))?;
                self.drain(decoder, bytes_max)
            }
        }
    }

    /// Reads to the end, growing only by what really comes.
    fn drain(self, reader: impl Read, bytes_max: usize) -> Result<Bytes, BatchError> {
        let mut plain = Vec::new();
        reader
            .take(bytes_max as u64 + 1)
            .read_to_end(&mut plain)
            .map_err(|e| BatchError::Unpacking { codec: self.name(), reason: e.to_string() })?;
        if plain.len() > bytes_max {
            return Err(BatchError::UnpacksTooLarge { bytes_max });
        }
        Ok(plain.into())
    }
}

/// Frames blocks as snappy-java does: `magic version compatible { length block }*`, lengths and
/// versions as big-endian 32-bit numbers.
fn pack_xerial(plain: &[u8]) -> Result<Vec<u8>, snap::Error> {
    let mut out = XERIAL_MAGIC.to_vec();
    out.extend_from_slice(&1_i32.to_be_bytes());
    out.extend_from_slice(&1_i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block)?;
        out.extend_from_slice(&(packed.len() as i32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(out)
}

/// Takes both framings: snappy-java's, and the one bare block of librdkafka and others.
fn unpack_snappy(packed: &[u8], bytes_max: usize) -> Result<Bytes, BatchError> {
    let mut plain = Vec::new();
    if !packed.starts_with(XERIAL_MAGIC) {
        unpack_snappy_block(packed, &mut plain, bytes_max)?;
        return Ok(plain.into());
    }
    let failed =
        |reason: &str| BatchError::Unpacking { codec: "snappy", reason: reason.to_owned() };
    let mut rest =
        packed.get(XERIAL_HEADER_BYTES..).ok_or_else(|| failed("the stream's header is cut"))?;
    while !rest.is_empty() {
        let (length, behind) =
            rest.split_first_chunk::<4>().ok_or_else(|| failed("a block's length is cut"))?;
        let block = usize::try_from(i32::from_be_bytes(*length))
            .ok()
            .and_then(|length| behind.get(..length))
            .ok_or_else(|| failed("a block is longer than the batch"))?;
        unpack_snappy_block(block, &mut plain, bytes_max)?;
        rest = &behind[block.len()..];
    }
    Ok(plain.into())
}

fn unpack_snappy_block(
    block: &[u8],
    plain: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<(), BatchError> {
    let failed = |reason: String| BatchError::Unpacking { codec: "snappy", reason };
    let length = snap::raw::decompress_len(block).map_err(|e| failed(e.to_string()))?;
    if length > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(failed(format!("{} bytes can not hold {length}", block.len())));
    }
    let start = plain.len();
    if start.saturating_add(length) > bytes_max {
        return Err(BatchError::UnpacksTooLarge { bytes_max });
    }
    plain.resize(start + length, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut plain[start..])
        .map_err(|e| failed(e.to_string()))?;
    plain.truncate(start + written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACKED: [Compression; 4] =
        [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    #[test]
    fn a_bomb_is_refused_before_it_goes_off() {
        let plain = vec![0_u8; 1 << 20];
        for codec in PACKED {
            let packed: Bytes = codec.pack(&plain).unwrap().into();
            assert!(packed.len() < 64 << 10, "{} bytes", packed.len());
            assert!(matches!(
                codec.unpack(&packed, (1 << 20) - 1),
                Err(BatchError::UnpacksTooLarge { .. })
            ));
            assert_eq!(codec.unpack(&packed, 1 << 20).unwrap(), plain);
        }
    }

    #[test]
    fn a_bare_snappy_block_is_taken() {
        let plain = b"one block, as librdkafka writes it, writes it, writes it";
        let packed: Bytes = snap::raw::Encoder::new().compress_vec(plain).unwrap().into();
        assert_eq!(Compression::Snappy.unpack(&packed, 1024).unwrap(), plain.as_slice());
    }

    #[test]
    fn a_snappy_block_can_not_claim_what_it_can_not_hold() {
        // A length of 64 MiB - 1 in front of nothing.
        let packed = Bytes::from_static(&[0xff, 0xff, 0xff, 0x1f]);
        assert!(matches!(
            Compression::Snappy.unpack(&packed, UNPACKED_BYTES_MAX),
            Err(BatchError::Unpacking { .. })
        ));
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks(plain in proptest::collection::vec(any::<u8>(), 0..100_000)) {
            for codec in PACKED {
                let packed: Bytes = codec.pack(&plain).unwrap().into();
                prop_assert_eq!(codec.unpack(&packed, plain.len()).unwrap(), plain.clone());
            }
        }

        #[test]
        fn any_bytes_unpack_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let bytes = Bytes::from(bytes);
            for codec in PACKED {
                if let Ok(plain) = codec.unpack(&bytes, 1 << 20) {
                    prop_assert!(plain.len() <= 1 << 20);
                }
            }
        }
    }
}
