#![no_main]

use cqrs_core::codec::{Binding, CloudEvents};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let codec = CloudEvents::new("/rooms").expect("a URI reference");
    cqrs_fuzz::decode(&codec, input);
    cqrs_fuzz::decode(&codec.clone().binary(Binding::Kafka), input);
    cqrs_fuzz::decode(&codec.binary(Binding::Amqp), input);
});
