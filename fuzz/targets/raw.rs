#![no_main]

use cqrs_core::codec::Raw;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    cqrs_fuzz::decode(&Raw::new().with_name("measured"), input);
});
