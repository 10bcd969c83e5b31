#![no_main]

use cqrs_core::codec::Json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    cqrs_fuzz::decode(&Json, input);
});
