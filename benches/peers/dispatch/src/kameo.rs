//! An actor takes its messages from a mailbox, one after the other, in a task of its own, and answers through a channel.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kameo::Actor;
use kameo::actor::{ActorRef, Spawn};
use kameo::message::{Context, Message};
use tokio::runtime::Runtime;

use crate::{Case, NUMBERS, REFERENCE_IN_TOKIO, sum};

#[derive(Actor)]
struct Adder;

struct Command([u64; 4]);

impl Message<Command> for Adder {
    type Reply = u64;

    async fn handle(&mut self, command: Command, _cx: &mut Context<Self, Self::Reply>) -> Self::Reply {
        sum(command.0)
    }
}

/// With one thread the actor answers while the one who asks waits; with many, another thread may answer.
pub(crate) fn cases(one: Arc<Runtime>, many: Arc<Runtime>) -> [Case; 2] {
    [
        Case { counted: true, ..case("kameo, one thread", one) },
        Case { counted: false, ..case("kameo, a thread per core", many) },
    ]
}

fn case(name: &'static str, runtime: Arc<Runtime>) -> Case {
    let actor = runtime.block_on(async { Adder::spawn(Adder) });
    let answer = runtime.block_on(async { actor.ask(Command(NUMBERS)).await });
    assert!(matches!(answer, Ok(10)), "{name} reaches its handler");
    // From a task, as a service asks. What `block_on` runs is no task, and costs more to wake.
    let time = move |times| {
        let asking = runtime.spawn(ask(actor.clone(), times));
        runtime.block_on(asking).expect("no task panics")
    };
    Case {
        name,
        package: Some("kameo"),
        reference: REFERENCE_IN_TOKIO,
        times: 1_000,
        counted: true,
        time: Box::new(time),
    }
}

async fn ask(actor: ActorRef<Adder>, times: u64) -> Duration {
    let began = Instant::now();
    for _ in 0..times {
        let _ = black_box(actor.ask(Command(black_box(NUMBERS))).await);
    }
    began.elapsed()
}
