//! A macro writes the mediator for the commands that it is told, so there is no registry: a send is a call of the
//! handler's function.

use std::hint::black_box;

use cqrs_benches::now;
use medi_rs::{MediCommand, Result, medi_handler, medi_module, mediator};

use crate::{Case, NUMBERS, sum};

#[derive(MediCommand)]
#[medi_command(return_type = u64, error_type = medi_rs::Error)]
struct Command([u64; 4]);

#[medi_handler]
async fn add(command: Command) -> Result<u64> {
    Ok(sum(command.0))
}

medi_module! {
    manifest adding;
    commands { Command => add; }
}

mediator! {
    struct Adder {
        event_queue_capacity: 16;
        event_workers: 1;
        modules: [adding];
    }
}

pub(crate) fn case() -> Case {
    let mediator = Adder::builder().build();
    Case::polled("medi-rs", "medi-rs", move || now(mediator.send(Command(black_box(NUMBERS)))))
}
