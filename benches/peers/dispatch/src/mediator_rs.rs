//! Handlers are closures behind a `HashMap` of types; the command, the response and three futures are boxed on the way.

use std::hint::black_box;

use async_trait::async_trait;
use cqrs_benches::now;
use mediator_rs::{Handler as Handles, Mediator, Request};

use crate::{Case, NUMBERS, others, sum};

struct Command([u64; 4]);

impl Request for Command {
    type Output = u64;
}

struct Other<const N: usize>;

impl<const N: usize> Request for Other<N> {
    type Output = ();
}

/// What the application would hand to every handler.
struct Context;

struct Handler;

#[async_trait]
impl Handles<Command, String, Context> for Handler {
    async fn handle(&self, command: Command, _cx: &Context) -> Result<u64, String> {
        Ok(sum(command.0))
    }
}

#[async_trait]
impl<const N: usize> Handles<Other<N>, String, Context> for Handler {
    async fn handle(&self, _: Other<N>, _cx: &Context) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) fn case() -> Case {
    let mut mediator: Mediator<Context, String> = Mediator::new();
    mediator.register::<Command, _>(Handler);
    macro_rules! bind {
        ($($number:literal)*) => {
            $(mediator.register::<Other<$number>, _>(Handler);)*
        };
    }
    others!(bind);
    Case::polled("mediator-rs", "mediator-rs", move || {
        now(mediator.dispatch(Command(black_box(NUMBERS)), &Context))
    })
}
