//! What the benchmarks and the test of allocations compare: one command and its handler, reached in different ways.

use std::fmt;
use std::future::Future;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use cqrs_core::__private::nested;
use cqrs_core::{
    Context, Correlation, DomainEvent, Encoder, Error, EventEmitter, EventHandler, EventMap, EventMediator,
    IntoMessage, Middleware, MiddlewareStack, Next, NotificationEvent, Reply, Request, RequestHandler,
    RequestMap, RequestMediator, Result, StaticMediator,
};
use serde::{Deserialize, Serialize};

/// The command: 32 bytes.
#[derive(Clone, Copy, Debug, Request)]
#[request(response = u64)]
pub struct Command(pub [u64; 4]);

/// A command of the same size, whose handler says a domain event.
#[derive(Clone, Copy, Debug, Request)]
#[request(response = u64)]
pub struct Saying(pub [u64; 4]);

/// What it says.
#[derive(Clone, Copy, Debug, DomainEvent)]
pub struct Happened(pub u64);

/// Handles everything here. It does next to nothing, and never waits.
#[derive(Clone, Copy, Debug)]
pub struct Handler;

impl RequestHandler<Command> for Handler {
    async fn handle(&self, command: Command, _cx: &Context<'_>) -> Result<u64> {
        Ok(black_box(command).0.iter().sum())
    }
}

impl RequestHandler<Saying> for Handler {
    async fn handle(&self, command: Saying, cx: &Context<'_>) -> Result<u64> {
        let sum = black_box(command).0.iter().sum();
        cx.emit(Happened(sum));
        Ok(sum)
    }
}

impl EventHandler<Happened> for Handler {
    async fn handle(&self, event: &Happened, _cx: &Context<'_>) -> Result<()> {
        black_box(event.0);
        Ok(())
    }
}

/// One of the other requests that are bound.
struct Other<const N: usize>;

impl<const N: usize> Request for Other<N> {
    type Response = ();
    type Error = Error;
}

impl<const N: usize> RequestHandler<Other<N>> for Handler {
    async fn handle(&self, _: Other<N>, _cx: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

/// The reference: dynamic dispatch as one writes it by hand, with one boxed future.
pub trait ByHand: Send + Sync {
    /// Handles the command.
    fn handle<'a>(
        &'a self,
        command: Command,
        cx: &'a Context<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<u64>> + Send + 'a>>;
}

impl ByHand for Handler {
    fn handle<'a>(
        &'a self,
        command: Command,
        cx: &'a Context<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<u64>> + Send + 'a>> {
        Box::pin(RequestHandler::handle(self, command, cx))
    }
}

/// The same with a context that is made for the call, as one does who writes it by hand and wants to see what was said: nobody looks,
/// here.
#[derive(Clone, Copy, Debug)]
pub struct WithContext<H>(pub H);

impl ByHand for WithContext<Handler> {
    fn handle<'a>(
        &'a self,
        command: Command,
        cx: &'a Context<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<u64>> + Send + 'a>> {
        Box::pin(async move {
            let cx = nested(cx);
            RequestHandler::handle(&self.0, command, &cx).await
        })
    }
}

/// A middleware that does nothing.
#[derive(Clone, Copy, Debug)]
pub struct Pass;

impl<R: Request> Middleware<R> for Pass {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        next.run(request, cx).await
    }
}

/// Runs something within a handler, where there is a [`Context`] to call other handlers with.
struct Inside<T>(Box<dyn FnOnce(&Context<'_>) -> T + Send>);

impl<T: Send + 'static> Request for Inside<T> {
    type Response = T;
    type Error = Error;
}

impl<T: Send + 'static> RequestHandler<Inside<T>> for Handler {
    async fn handle(&self, inside: Inside<T>, cx: &Context<'_>) -> Result<T> {
        Ok(inside.0(cx))
    }
}

/// What `work` returns when it is given a context.
///
/// # Errors
///
/// Those of [`RequestMediator::new`].
pub fn inside<T: Send + 'static>(work: impl FnOnce(&Context<'_>) -> T + Send + 'static) -> Result<T> {
    let mediator =
        RequestMediator::new(RequestMap::new().bind::<Inside<T>>(Handler), EventEmitter::default())?;
    now(mediator.send(Inside(Box::new(work))))
}

/// 30 requests bound, which are never sent.
pub fn others() -> RequestMap {
    macro_rules! bind {
        ($($number:literal)*) => {
            RequestMap::new()$(.bind::<Other<$number>>(Handler))*
        };
    }
    bind!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29)
}

/// These requests, and [`Command`] and [`Saying`], within the middlewares so far; and a handler of [`Happened`].
///
/// # Errors
///
/// Those of [`RequestMediator::new`].
pub fn mediator<S>(requests: RequestMap<S>) -> Result<RequestMediator>
where
    S: MiddlewareStack<Command> + MiddlewareStack<Saying>,
{
    let requests = requests.bind::<Command>(Handler).bind::<Saying>(Handler);
    RequestMediator::new(requests, EventEmitter::new(EventMap::new().bind::<Happened>(Handler)))
}

cqrs_core::mediator! {
    /// The handlers of a static mediator.
    #[mediator(crate = "cqrs_core")]
    #[derive(Debug)]
    pub struct Handlers {
        /// That of [`Command`].
        pub command: Command => Handler,
        /// That of [`Saying`].
        pub saying: Saying => Handler,
    }
}

/// A static mediator of these.
///
/// # Errors
///
/// Those of [`StaticMediator::new`].
pub fn static_mediator() -> Result<StaticMediator<Handlers>> {
    let events = EventMap::new().bind::<Happened>(Handler);
    StaticMediator::new(
        Handlers { command: Handler, saying: Handler },
        RequestMap::new(),
        EventEmitter::new(events),
    )
}

/// An integration event whose payload is 300 bytes of JSON.
#[derive(Clone, Debug, Serialize, Deserialize, NotificationEvent)]
#[event(crate = "cqrs_core", topic = "rooms", key = room)]
pub struct RoomBooked {
    /// A number of six digits.
    pub room: u32,
    /// Three names.
    pub guests: Vec<String>,
    /// The rest.
    pub remark: String,
}

impl RoomBooked {
    /// One.
    pub fn example() -> Self {
        let guests = ["Ada Lovelace", "Grace Hopper", "Barbara Liskov"].map(str::to_owned).to_vec();
        Self { room: 123_456, guests, remark: "r".repeat(210) }
    }
}

impl EventHandler<RoomBooked> for Handler {
    async fn handle(&self, event: &RoomBooked, _cx: &Context<'_>) -> Result<()> {
        black_box(event.room);
        Ok(())
    }
}

/// What a consumer gives to the handlers, and what decoding its payload alone takes; the second is the reference.
///
/// # Errors
///
/// Those of [`EventMediator::new`] and of the encoder.
pub fn received() -> Result<Vec<Case>> {
    let message = RoomBooked::example().into_message(&Encoder::default(), &Correlation::default())?;
    let payload = message.payload.clone().unwrap_or_default();
    let events = EventMap::new().subscribe::<RoomBooked>("rooms", Handler);
    let mediator = EventMediator::new(EventEmitter::new(events))?;
    let bare = message.clone();
    Ok(vec![
        Case {
            name: "drop of the message",
            time: Box::new(move |times| time_with(times, || bare.clone(), drop)),
        },
        Case {
            name: "serde_json::from_slice",
            time: Box::new(move |times| {
                time(times, || serde_json::from_slice::<RoomBooked>(black_box(&payload)))
            }),
        },
        Case {
            name: "decode and dispatch",
            time: Box::new(move |times| {
                time_with(times, || message.clone(), |message| now(mediator.handle(message)))
            }),
        },
    ])
}

/// Tasks on two threads that send at the same time, and the reference in their place; the second is the reference.
///
/// # Errors
///
/// Those of [`RequestMediator::new`].
pub fn at_once(tasks: u64) -> Result<Vec<Case>> {
    const NUMBERS: [u64; 4] = [1, 2, 3, 4];
    let mediator = mediator(others())?;
    let by_hand: Arc<dyn ByHand> = black_box(Arc::new(Handler));
    let alone = mediator.clone();
    let on_two = move |times: u64, work: Arc<dyn Fn(u64) + Send + Sync>| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..tasks / 2).for_each(|_| work(times / tasks)));
            }
        });
        began.elapsed()
    };
    let calls = move |times: u64| {
        let by_hand = Arc::clone(&by_hand);
        let _ = inside(move |cx| {
            for _ in 0..times {
                let _ = black_box(now(by_hand.handle(Command(black_box(NUMBERS)), cx)));
            }
        });
    };
    let sends = move |times: u64| {
        for _ in 0..times {
            let _ = black_box(now(mediator.send(Command(black_box(NUMBERS)))));
        }
    };
    let calls: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(calls);
    let sends: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(sends);
    Ok(vec![
        Case {
            name: "send, one thread",
            time: Box::new(move |times| time(times, || now(alone.send(Command(black_box(NUMBERS)))))),
        },
        Case {
            name: "boxed by hand, two threads",
            time: Box::new(move |times| on_two(times, Arc::clone(&calls))),
        },
        Case { name: "send, two threads", time: Box::new(move |times| on_two(times, Arc::clone(&sends))) },
    ])
}

/// One of the things that are compared.
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// How long it takes that many times.
    pub time: Box<dyn Fn(u64) -> Duration>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All that is compared; the second is the reference.
///
/// # Errors
///
/// Those of [`RequestMediator::new`].
pub fn cases() -> Result<Vec<Case>> {
    const NUMBERS: [u64; 4] = [1, 2, 3, 4];
    let case = |name, time: Box<dyn Fn(u64) -> Duration>| Case { name, time };
    let by_hand: Arc<dyn ByHand> = black_box(Arc::new(Handler));
    let making: Arc<dyn ByHand> = black_box(Arc::new(WithContext(Handler)));
    let plain = mediator(others())?;
    let saying = plain.clone();
    let known = static_mediator()?;
    let three = EventMediator::new(EventEmitter::new(
        EventMap::new().bind::<Happened>(Handler).bind::<Happened>(Handler).bind::<Happened>(Handler),
    ))?;
    let handle = plain.handle_of::<Command>()?;
    let layered = mediator(others().middleware(Pass).middleware(Pass).middleware(Pass))?;
    Ok(vec![
        case(
            "direct call",
            Box::new(|times| {
                let timed = inside(move |cx| {
                    time(times, || now(RequestHandler::handle(&Handler, Command(black_box(NUMBERS)), cx)))
                });
                timed.unwrap_or_default()
            }),
        ),
        case(
            "boxed by hand",
            Box::new(move |times| {
                let by_hand = Arc::clone(&by_hand);
                let timed =
                    inside(move |cx| time(times, || now(by_hand.handle(Command(black_box(NUMBERS)), cx))));
                timed.unwrap_or_default()
            }),
        ),
        case(
            "the same, making its context",
            Box::new(move |times| {
                let making = Arc::clone(&making);
                let timed =
                    inside(move |cx| time(times, || now(making.handle(Command(black_box(NUMBERS)), cx))));
                timed.unwrap_or_default()
            }),
        ),
        case(
            "direct call, making its context",
            Box::new(|times| {
                let timed = inside(move |cx| {
                    let call = async |command| {
                        let cx = nested(cx);
                        RequestHandler::handle(&Handler, command, &cx).await
                    };
                    time(times, || now(call(Command(black_box(NUMBERS)))))
                });
                timed.unwrap_or_default()
            }),
        ),
        case("send", Box::new(move |times| time(times, || now(plain.send(Command(black_box(NUMBERS))))))),
        case(
            "send by its handle",
            Box::new(move |times| time(times, || now(handle.send(Command(black_box(NUMBERS)))))),
        ),
        case(
            "static send",
            Box::new(move |times| time(times, || now(known.send(Command(black_box(NUMBERS)))))),
        ),
        case(
            "send, three middlewares",
            Box::new(move |times| time(times, || now(layered.send(Command(black_box(NUMBERS)))))),
        ),
        case(
            "send, one domain event",
            Box::new(move |times| time(times, || now(saying.send(Saying(black_box(NUMBERS)))))),
        ),
        case(
            "an event to three handlers",
            Box::new(move |times| time(times, || now(three.emit(Happened(black_box(1)))))),
        ),
    ])
}

fn time<T>(times: u64, call: impl Fn() -> T) -> Duration {
    let began = Instant::now();
    for _ in 0..times {
        black_box(call());
    }
    began.elapsed()
}

/// The same for what takes something each time, without the time to make that.
fn time_with<I, T>(times: u64, make: impl Fn() -> I, call: impl Fn(I) -> T) -> Duration {
    // Few enough to stay in the cache, and enough that nothing is seen of the clock.
    const AT_A_TIME: u64 = 50;
    let (mut elapsed, mut left) = (Duration::ZERO, times);
    while left > 0 {
        let now = left.min(AT_A_TIME);
        left -= now;
        let given: Vec<I> = (0..now).map(|_| make()).collect();
        let began = Instant::now();
        for given in given {
            black_box(call(given));
        }
        elapsed += began.elapsed();
    }
    elapsed
}

/// The output of a future that never waits, without an executor.
///
/// # Panics
///
/// If it waits.
#[inline(always)]
pub fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}
