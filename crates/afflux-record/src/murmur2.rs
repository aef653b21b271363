//! The hash by which Kafka's clients spread keys over partitions.

/// Murmur2 with the Java client's seed (`org.apache.kafka.common.utils.Utils.murmur2`).
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    let mut h = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition, of `count`, that the Java client's default partitioner gives a key.
/// `count` below 1 is taken for 1.
pub fn partition_for(key: &[u8], count: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) as i32 % count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_java_client() {
        // The vectors of Apache Kafka's `UtilsTest.testMurmur2`, as of its commit f55581dc
        // (clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java).
        let check = |key: &str, expected: i32| {
            assert_eq!(murmur2(key.as_bytes()) as i32, expected, "{key}");
        };
        check("21", -973_932_308);
        check("foobar", -790_332_482);
        check("a-little-bit-long-string", -985_981_536);
        check("a-little-bit-longer-string", -1_486_304_829);
        check("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971);
        check("abc", 479_470_107);
        // Those of librdkafka's `unittest_murmur2` (src/rdmurmur2.c): every length of the rest.
        check("1234", 0x9fc9_7b14_u32 as i32);
        check("234", 0xe7c0_09ca_u32 as i32);
        check("34", 0x8739_30da_u32 as i32);
        check("4", 0x5a4b_5ca1);
        check("", 0x106e_08d9);
    }

    #[test]
    fn partitions_are_in_range() {
        for count in [-1, 0, 1, 3, 4, 100] {
            for key in 0..1_000_u32 {
                let partition = partition_for(&key.to_be_bytes(), count);
                assert!((0..count.max(1)).contains(&partition));
            }
        }
        // -790_332_482 with its sign bit cleared is 1_357_151_166.
        assert_eq!(partition_for(b"foobar", 4), 1_357_151_166 % 4);
    }
}
