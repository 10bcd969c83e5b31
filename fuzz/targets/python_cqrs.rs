#![no_main]

use cqrs_core::codec::PythonCqrs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    cqrs_fuzz::decode(&PythonCqrs::v0(), input);
    cqrs_fuzz::decode(&PythonCqrs::v5_dataclass(), input);
    cqrs_fuzz::decode(&PythonCqrs::v5_pydantic().with_utc_marker(), input);
});
