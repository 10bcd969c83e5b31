#![no_main]

use cqrs_core::codec::{AnyOf, CloudEvents, Compressed, Json, PythonCqrs, Raw};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let events = CloudEvents::new("/rooms").expect("a URI reference");
    let codec = AnyOf::new(events).or(PythonCqrs::v0()).or(Json).or(Raw::new());
    cqrs_fuzz::decode(&Compressed::gzip(codec), input);
});
