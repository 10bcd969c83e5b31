//! What it costs to reach a handler, one after the other and with the statistics of criterion; see the README of this
//! package.
#![allow(clippy::expect_used)]

use cqrs_benches::cases;
use criterion::{Criterion, criterion_group, criterion_main};

fn dispatch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dispatch");
    for case in cases().expect("the maps are right") {
        group.bench_function(case.name, |bencher| bencher.iter_custom(|times| (case.time)(times)));
    }
    group.finish();
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
