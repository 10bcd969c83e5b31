//! Handlers are closures behind a mutex and a `HashMap` of types; the command and the response are boxed as `Any`. One
//! mediator is synchronous, the other boxes futures and locks with tokio's mutex.

use std::hint::black_box;

use cqrs_benches::now;
use mediator::{AsyncMediator, DefaultAsyncMediator, DefaultMediator, Mediator, Request};
use tokio::runtime::Runtime;

use crate::{Case, NUMBERS, others, sum};

struct Command([u64; 4]);

impl Request<u64> for Command {}

struct Other<const N: usize>;

impl<const N: usize> Request<()> for Other<N> {}

pub(crate) fn cases(runtime: &Runtime) -> [Case; 2] {
    macro_rules! bind {
        ($($number:literal)*) => {
            DefaultMediator::builder()$(.add_handler(|_: Other<$number>| ()))*
        };
    }
    let mut mediator = others!(bind).add_handler(|command: Command| sum(command.0)).build();

    macro_rules! bind_async {
        ($($number:literal)*) => {
            DefaultAsyncMediator::builder()$(.add_handler(|_: Other<$number>| async {}))*
        };
    }
    // It wants a runtime while it is built, and none to send.
    let mut async_mediator = runtime.block_on(async {
        others!(bind_async).add_handler(|command: Command| async move { sum(command.0) }).build()
    });
    [
        Case::polled("mediator, `DefaultMediator`", "mediator", move || {
            mediator.send(Command(black_box(NUMBERS)))
        }),
        Case::polled("mediator, `DefaultAsyncMediator`", "mediator", move || {
            now(async_mediator.send(Command(black_box(NUMBERS))))
        }),
    ]
}
