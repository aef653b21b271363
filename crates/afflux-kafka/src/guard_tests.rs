//! Every decoder behind the guard: what it is fed is either refused, or takes little memory.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, MetadataRequest, metadata_request::MetadataRequestTopic},
    protocol::{Encodable, StrBytes},
};
use proptest::{prelude::*, test_runner::TestRng};

use super::*;
use crate::{
    api::{self, Api},
    fuzzing::author::{self, decode, served},
    wire,
};

thread_local! {
    /// What this thread has taken and not given back, and the most of it since last asked.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, which also counts, a thread for itself.
struct Counting;

fn count(bytes: isize) {
    // While a thread ends there is nothing left to count in, nor anybody to ask.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

#[expect(unsafe_code, reason = "an allocator is the only place where a reservation can be seen")]
// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that this thread held during a call, above what it held before.
fn most_held<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|held| {
        held.set((held.get().0, held.get().0));
        held.get().0
    });
    let result = call();
    let most = HELD.with(|held| held.get().1);
    (result, (most - before) as usize)
}

fn write(api: &Api, version: i16, random: &mut TestRng) -> Bytes {
    author::write(api, version, &mut |bound| random.random_range(0..bound))
}

fn walk(api: &Api, version: i16, body: &[u8]) -> Result<(), MalformedRequest> {
    inspect(body, api.request, version, api.is_flexible(version)).map(drop)
}

/// What decoding a body may take: a structure in memory is larger than its bytes on the wire,
/// within reason, and an error holds its backtrace.
fn allowance(bytes: usize) -> usize {
    8_192 + 512 * bytes
}

#[test]
fn the_shapes_are_those_of_the_decoders() {
    let mut random = TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha);
    for (api, version) in served() {
        for _ in 0..200 {
            let body = write(api, version, &mut random);
            let what = format!("{:?} version {version}: {body:?}", api.key);
            assert_eq!(walk(api, version, &body), Ok(()), "{what}");
            assert_eq!(decode(api.key, &mut body.clone(), version), Ok(0), "{what}");
            for length in 0..body.len() {
                assert!(walk(api, version, &body[..length]).is_err(), "cut at {length}: {what}");
            }
        }
    }
}

#[test]
fn what_would_take_much_more_than_its_bytes_is_refused() {
    // Empty names, a byte and an empty list of tags each.
    let metadata = |topics: usize| {
        let request = MetadataRequest::default().with_topics(Some(vec![
            MetadataRequestTopic::default().with_name(Some(StrBytes::new().into()));
            topics
        ]));
        let mut body = BytesMut::new();
        request.encode(&mut body, 9).unwrap();
        let api = api::find(ApiKey::Metadata as i16).unwrap();
        inspect(&body, api.request, 9, true)
    };
    assert_eq!(metadata(ELEMENTS_MAX), Ok(ELEMENTS_MAX));
    assert_eq!(metadata(ELEMENTS_MAX + 1), Err(MalformedRequest::Elements));
}

#[test]
fn a_count_that_the_bytes_can_not_fill_is_refused() {
    // Without the guard these are the eight bytes that reserve gigabytes.
    for (api, version) in served() {
        let mut random = TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha);
        for _ in 0..50 {
            let body = write(api, version, &mut random);
            for at in 0..body.len() {
                let mut huge = body.to_vec();
                let value: &[u8] = if api.is_flexible(version) {
                    &[0xff, 0xff, 0xff, 0xff, 0x07]
                } else {
                    &[0x7f, 0xff, 0xff, 0xff]
                };
                for (to, from) in huge[at..].iter_mut().zip(value) {
                    *to = *from;
                }
                try_decoding(api, version, &huge.into());
            }
        }
    }
}

#[test]
fn a_tagged_field_that_is_known_has_its_own_size() {
    // Fetch, one partition of a topic. Its directory is 16 bytes, of which a decoder that is told
    // of fewer takes the rest from what follows: a count of topics to forget.
    let api = api::find(ApiKey::Fetch as i16).unwrap();
    let check = |version: i16, tag: u8, size: u8, expected: Result<(), MalformedRequest>| {
        let mut body = BytesMut::zeroed(21);
        body.put_u8(2);
        body.put_bytes(7, 16);
        body.put_u8(2);
        body.put_bytes(0, 32);
        body.put_slice(&[1, tag, size]);
        body.put_bytes(0, size.into());
        // No more of the topic, none to forget, no rack, and no more of the request.
        body.put_slice(&[0, 1, 1, 0]);
        let what = format!("version {version}, tag {tag} of {size} bytes");
        assert_eq!(walk(api, version, &body), expected, "{what}");
        if expected.is_ok() {
            assert_eq!(decode(api.key, &mut body.freeze(), version), Ok(0), "{what}");
        }
    };
    for (version, tag, bytes) in [(17, 0, 16), (18, 0, 16), (18, 1, 8)] {
        check(version, tag, bytes, Ok(()));
        check(version, tag, bytes - 1, Err(MalformedRequest::Tagged));
        check(version, tag, bytes + 1, Err(MalformedRequest::Tagged));
        check(version, 2, 3, Ok(()));
    }
}

#[test]
fn strings_are_no_longer_than_kafkas() {
    // ListGroups has a list of strings; version 4 is the first flexible one.
    let api = api::find(ApiKey::ListGroups as i16).unwrap();
    let check = |bytes: usize, expected: Result<(), MalformedRequest>| {
        let mut body = BytesMut::from(&[2][..]);
        let mut length = bytes + 1;
        while length >= 0x80 {
            body.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        body.put_u8(length as u8);
        body.put_bytes(b'x', bytes);
        body.put_u8(0);
        assert_eq!(walk(api, 4, &body), expected, "{bytes} bytes");
    };
    check(32_767, Ok(()));
    check(32_768, Err(MalformedRequest::LongText));
}

/// Decodes what the guard lets through, and looks at what that takes.
fn try_decoding(api: &Api, version: i16, body: &Bytes) {
    if walk(api, version, body).is_err() {
        return;
    }
    let bytes = body.len();
    let (_, held) = most_held(|| decode(api.key, &mut body.clone(), version));
    assert!(
        held <= allowance(bytes),
        "{:?} version {version} took {held} bytes for {bytes}: {body:?}",
        api.key
    );
}

#[test]
fn the_allocator_sees_what_the_guard_prevents() {
    // A Metadata request of four bytes that announces a million topics.
    let body = Bytes::from_static(&[0, 0x0f, 0x42, 0x40]);
    let (_, held) = most_held(|| decode(ApiKey::Metadata, &mut body.clone(), 1));
    assert!(held > 10 << 20, "the decoder has learnt to distrust counts: the guard can go");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutilated_requests_take_little_memory(
        seed in any::<u64>(),
        wounds in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        for (api, version) in served() {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            let mut random = TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &bytes);
            let mut body = write(api, version, &mut random).to_vec();
            for (at, byte) in &wounds {
                if !body.is_empty() {
                    let at = at.index(body.len());
                    body[at] = *byte;
                }
            }
            try_decoding(api, version, &body.into());
        }
    }

    #[test]
    fn noise_takes_little_memory(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        for (api, version) in served() {
            try_decoding(api, version, &noise.clone().into());
        }
    }

    #[test]
    fn noisy_frames_are_parsed_or_refused(
        key in 0..70_i16,
        version in -1..20_i16,
        noise in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut frame = BytesMut::new();
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_slice(&noise);
        let frame = frame.freeze();
        if let Ok(header) = wire::parse_header(&frame)
            && let Ok(request) = wire::parse(header, frame)
        {
            prop_assert!(request.api.serves(version));
        }
    }
}
