//! The dispatch of this toolkit beside its peers: the same command, and a handler that does the same.
//!
//! Each peer is in a file of its own, and used there as its own documentation says.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cqrs_benches::{ByHand, Command, Handler, inside};
use tokio::runtime::{Builder, Runtime};

mod brazier;
mod hexeract;
mod kameo;
mod medi_rs;
mod mediator;
mod mediator_rs;

/// Gives a macro the numbers of 31 types, so that with the command there are 32.
macro_rules! others {
    ($bind:ident) => {
        $bind!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30)
    };
}
use others;

const NUMBERS: [u64; 4] = [1, 2, 3, 4];

/// The rows of `cqrs_benches::cases` that stand beside the peers.
const OURS: [(&str, &str, Option<&str>); 5] = [
    ("direct call", "direct call", None),
    (REFERENCE, REFERENCE, None),
    ("send", "cqrs, `RequestMediator::send`", Some("cqrs-core")),
    ("send by its handle", "cqrs, `RequestHandle::send`", Some("cqrs-core")),
    ("static send", "cqrs, `StaticMediator::send`", Some("cqrs-core")),
];

const REFERENCE: &str = "boxed by hand";
const REFERENCE_IN_TOKIO: &str = "boxed by hand, in tokio";

/// One of the things that are compared.
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// The package that it comes from, unless it is one of the two that stand for no package.
    pub package: Option<&'static str>,
    /// The name of what it is compared to: the reference that is polled in the same way.
    pub reference: &'static str,
    /// How many times make a round. Fewer of what is slow, so that the rounds are of one length.
    pub times: u64,
    /// Whether all its allocations happen on the thread that asks: only those are counted.
    pub counted: bool,
    /// How long it takes that many times.
    pub time: Box<dyn FnMut(u64) -> Duration>,
}

impl Case {
    /// A peer whose future is polled once, by hand: there is no executor.
    fn polled<E>(
        name: &'static str,
        package: &'static str,
        mut call: impl FnMut() -> Result<u64, E> + 'static,
    ) -> Self {
        assert!(matches!(call(), Ok(10)), "{name} reaches its handler");
        let time = move |times| {
            let began = Instant::now();
            for _ in 0..times {
                let _ = black_box(call());
            }
            began.elapsed()
        };
        Case {
            name,
            package: Some(package),
            reference: REFERENCE,
            times: 20_000,
            counted: true,
            time: Box::new(time),
        }
    }
}

/// All that is compared.
///
/// # Errors
///
/// If something cannot be built.
pub fn cases() -> Result<Vec<Case>, Box<dyn std::error::Error>> {
    let one = Arc::new(Builder::new_current_thread().build()?);
    let many = Arc::new(Builder::new_multi_thread().build()?);

    let mut known = cqrs_benches::cases()?;
    let mut cases = Vec::new();
    for (name, ours, package) in OURS {
        let known_at = known.iter().position(|case| case.name == name);
        let case = known.swap_remove(known_at.ok_or_else(|| format!("there is no case {name}"))?);
        cases.push(Case {
            name: ours,
            package,
            reference: REFERENCE,
            times: 20_000,
            counted: true,
            time: case.time,
        });
    }
    cases.push(medi_rs::case());
    cases.push(brazier::case());
    cases.push(mediator_rs::case());
    cases.extend(mediator::cases(&many));
    cases.push(hexeract::case()?);
    cases.push(reference_in_tokio(Arc::clone(&one)));
    cases.extend(kameo::cases(one, many));
    Ok(cases)
}

/// What the other one does, awaited where kameo is. It never waits, so that all runtimes are alike.
fn reference_in_tokio(runtime: Arc<Runtime>) -> Case {
    let by_hand: Arc<dyn ByHand> = black_box(Arc::new(Handler));
    let time = move |times| {
        let (by_hand, runtime) = (Arc::clone(&by_hand), Arc::clone(&runtime));
        let timed = inside(move |cx| {
            runtime.block_on(async {
                let began = Instant::now();
                for _ in 0..times {
                    let _ = black_box(by_hand.handle(Command(black_box(NUMBERS)), cx).await);
                }
                began.elapsed()
            })
        });
        timed.unwrap_or_default()
    };
    Case {
        name: REFERENCE_IN_TOKIO,
        package: None,
        reference: REFERENCE_IN_TOKIO,
        times: 20_000,
        counted: true,
        time: Box::new(time),
    }
}

/// What every handler does.
fn sum(numbers: [u64; 4]) -> u64 {
    black_box(numbers).iter().sum()
}
