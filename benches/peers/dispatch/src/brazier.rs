//! Handlers are boxed trait objects behind a `HashMap` of types, and both they and the mediator are borrowed mutably.

use brazier::{Mediator, Request, RequestHandler, Result};
use cqrs_benches::now;
use std::hint::black_box;

use crate::{Case, NUMBERS, others, sum};

struct Command([u64; 4]);

impl Request<u64> for Command {}

struct Other<const N: usize>;

impl<const N: usize> Request<()> for Other<N> {}

struct Handler;

#[async_trait::async_trait]
impl RequestHandler<Command, u64> for Handler {
    async fn handle(&mut self, command: Command) -> Result<u64> {
        Ok(sum(command.0))
    }
}

#[async_trait::async_trait]
impl<const N: usize> RequestHandler<Other<N>, ()> for Handler {
    async fn handle(&mut self, _: Other<N>) -> Result<()> {
        Ok(())
    }
}

pub(crate) fn case() -> Case {
    let mut mediator = Mediator::new();
    mediator.register_handler::<Command, _, _>(Handler);
    macro_rules! bind {
        ($($number:literal)*) => {
            $(mediator.register_handler::<Other<$number>, _, _>(Handler);)*
        };
    }
    others!(bind);
    Case::polled("brazier", "brazier", move || now(mediator.send(Command(black_box(NUMBERS)))))
}
