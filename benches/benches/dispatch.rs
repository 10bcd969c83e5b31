//! What it costs to reach a handler; see the README of this package.
#![allow(clippy::expect_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cqrs_benches::{ByHand, Command, Handler, Pass, Saying, inside, mediator, now, others};
use cqrs_core::{Context, RequestHandler, Result};
use criterion::{Criterion, criterion_group, criterion_main};

const NUMBERS: [u64; 4] = [1, 2, 3, 4];

fn command() -> Command {
    Command(black_box(NUMBERS))
}

/// How long `call` takes that many times, with a context.
fn timed<T>(iterations: u64, call: impl Fn(&Context<'_>) -> Result<T> + Send + 'static) -> Duration {
    let elapsed = inside(move |cx| {
        let began = Instant::now();
        for _ in 0..iterations {
            black_box(call(cx)).ok();
        }
        began.elapsed()
    });
    elapsed.unwrap_or_default()
}

fn dispatch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dispatch");

    group.bench_function("direct call", |bencher| {
        bencher.iter_custom(|iterations| {
            timed(iterations, |cx| now(RequestHandler::handle(&Handler, command(), cx)))
        });
    });

    let by_hand: Arc<dyn ByHand> = Arc::new(Handler);
    group.bench_function("by hand (reference)", |bencher| {
        bencher.iter_custom(|iterations| {
            let by_hand = Arc::clone(&by_hand);
            timed(iterations, move |cx| now(by_hand.handle(command(), cx)))
        });
    });

    let plain = mediator(others()).expect("the maps are right");
    group.bench_function("send", |bencher| bencher.iter(|| now(plain.send(command()))));

    let layered =
        mediator(others().middleware(Pass).middleware(Pass).middleware(Pass)).expect("the maps are right");
    group.bench_function("send, three middlewares", |bencher| bencher.iter(|| now(layered.send(command()))));

    group.bench_function("send, one domain event", |bencher| {
        bencher.iter(|| now(plain.send(Saying(black_box(NUMBERS)))));
    });

    group.finish();
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
