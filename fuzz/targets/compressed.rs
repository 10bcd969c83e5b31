#![no_main]

use cqrs_core::codec::{Compressed, Raw};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    const LIMIT: usize = 1 << 16;
    // Whatever the header says: otherwise most inputs are not compressed at all.
    let (encoding, bytes) = match input.split_first() {
        Some((first, bytes)) => (["gzip", "deflate", "zstd", "zstd, gzip"][usize::from(first % 4)], bytes),
        None => return,
    };
    let input = [b"content-encoding: ", encoding.as_bytes(), b"\n\n", bytes].concat();
    let codec = Compressed::zlib(Raw::new()).with_max_decompressed_bytes(LIMIT);
    if let Some(message) = cqrs_fuzz::decode(&codec, &input) {
        assert!(message.payload.is_none_or(|payload| payload.len() <= LIMIT));
    }
});
