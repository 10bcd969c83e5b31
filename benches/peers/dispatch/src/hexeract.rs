//! Handlers are trait objects behind a `HashMap` of types. Each send makes two random ids, a context with a token to
//! cancel it, and boxes the command, the future and the output.

use std::hint::black_box;

use cqrs_benches::now;
use hexeract::core::{Command as IsCommand, CommandHandler, HandlerContext, HexeractError};
use hexeract::mediator::{MediatorBuildError, MediatorBuilder};

use crate::{Case, NUMBERS, others, sum};

struct Command([u64; 4]);

impl IsCommand for Command {
    type Output = u64;
}

struct Other<const N: usize>;

impl<const N: usize> IsCommand for Other<N> {
    type Output = ();
}

struct Handler;

impl CommandHandler<Command> for Handler {
    type Error = HexeractError;

    async fn handle(&self, command: Command, _cx: &HandlerContext) -> Result<u64, Self::Error> {
        Ok(sum(command.0))
    }
}

impl<const N: usize> CommandHandler<Other<N>> for Handler {
    type Error = HexeractError;

    async fn handle(&self, _: Other<N>, _cx: &HandlerContext) -> Result<(), Self::Error> {
        Ok(())
    }
}

pub(crate) fn case() -> Result<Case, MediatorBuildError> {
    macro_rules! bind {
        ($($number:literal)*) => {
            MediatorBuilder::new()$(.register_command_handler::<Other<$number>, _>(Handler))*
        };
    }
    let mediator = others!(bind).register_command_handler::<Command, _>(Handler).build()?;
    Ok(Case::polled("hexeract", "hexeract", move || now(mediator.send(Command(black_box(NUMBERS))))))
}
