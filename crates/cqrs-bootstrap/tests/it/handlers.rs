//! What the builder passes on to the mediators: streams, families, middlewares of events, the emitter's settings.

use std::sync::Arc;
use std::time::Duration;

use cqrs_bootstrap::bootstrap;
use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::*;
use cqrs_outbox::MemoryOutbox;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tokio::sync::Barrier;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::world::{CloseRoom, CloseRoomHandler, MeetingRoomClosed, RoomClosed, Tell};

#[derive(DomainEvent)]
struct RoomOpened;

#[derive(Request)]
struct OpenRoom;

#[derive(StreamRequest)]
#[request(item = u32)]
struct ReadRooms;

struct Rooms;

impl StreamHandler<ReadRooms> for Rooms {
    fn handle(&self, _: ReadRooms, _: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        stream::iter([Ok(1), Ok(2)])
    }
}

impl RequestHandler<OpenRoom> for Rooms {
    async fn handle(&self, _: OpenRoom, cx: &Context<'_>) -> Result<()> {
        cx.emit(RoomOpened);
        Ok(())
    }
}

/// Tells of every event, and fails.
struct Fails(Tell);

impl<E: DomainEvent> EventHandler<E> for Fails {
    async fn handle(&self, _: &E, _: &Context<'_>) -> Result<()> {
        self.0.0.send(E::NAME.to_owned()).map_err(Error::handler)?;
        Err(Error::handler("no"))
    }
}

/// Tells of what it stands around.
struct Around(Tell);

impl<E: Event> EventMiddleware<E> for Around {
    async fn call<N: EventHandler<E>>(&self, event: &E, cx: &Context<'_>, next: &N) -> Result<()> {
        self.0.0.send(format!("around {}", E::NAME)).map_err(Error::handler)?;
        next.handle(event, cx).await
    }
}

impl<R: StreamRequest<Error = Error>> StreamMiddleware<R> for Around {
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item>> + Send {
        let told = self.0.0.send(format!("around {}", R::name())).map_err(Error::handler);
        stream::iter(told.err().map(Err)).chain(next.handle(request, cx))
    }
}

fn told(told: &mut UnboundedReceiver<String>) -> Vec<String> {
    std::iter::from_fn(|| told.try_recv().ok()).collect()
}

#[tokio::test]
async fn handlers_of_all_kinds_are_registered() {
    let (sender, mut heard) = unbounded_channel();
    let tell = Tell(Arc::new(sender));
    let app = bootstrap()
        .stream_middleware(Around(tell.clone()))
        .outbox(MemoryOutbox::new())
        .without_relay()
        .emitter(|emitter| emitter.with_on_failure(OnEventFailure::RunAll))
        .domain_events::<(RoomOpened, RoomClosed), _>(Fails(tell.clone()))
        .event_middleware(Around(tell.clone()))
        .domain_event::<RoomOpened>(Fails(tell.clone()))
        .request::<OpenRoom>(Rooms)
        .stream::<ReadRooms>(Rooms)
        .transactional::<CloseRoom>(CloseRoomHandler)
        .build()
        .await
        .unwrap();
    let rooms: Vec<u32> = app.requests().stream(ReadRooms).try_collect().await.unwrap();
    assert_eq!(rooms, [1, 2]);
    assert_eq!(told(&mut heard), ["around ReadRooms"]);
    let error = app.requests().send(OpenRoom).await.unwrap_err();
    assert_eq!(error.downcast_ref::<EventErrors>().unwrap().iter().count(), 2);
    assert_eq!(told(&mut heard), ["room_opened", "around room_opened", "room_opened"]);
    app.requests().send(CloseRoom { room: 1, fails: false }).await.unwrap_err();
    assert_eq!(told(&mut heard), ["room_closed"]);
}

#[tokio::test]
async fn a_middleware_of_events_stands_around_what_is_received() {
    let (sender, mut heard) = unbounded_channel();
    let tell = Tell(Arc::new(sender));
    let app = bootstrap()
        .event_middleware(Around(tell.clone()))
        .group("rooms")
        .subscribe::<MeetingRoomClosed>("rooms", tell)
        .broker(Arc::new(MemoryBroker::new()))
        .build()
        .await
        .unwrap();
    let mut message = Message::new("rooms", r#"{"room":5}"#);
    message.name = "meeting_room_closed".into();
    app.events().handle(message).await.unwrap();
    assert_eq!(told(&mut heard), ["around meeting_room_closed", "received 5"]);
}

/// Opens the next room with each that was opened, by way of an event or of a request.
struct OpensTheNext;

impl EventHandler<RoomOpened> for OpensTheNext {
    async fn handle(&self, _: &RoomOpened, cx: &Context<'_>) -> Result<()> {
        cx.emit(RoomOpened);
        Ok(())
    }
}

impl RequestHandler<OpenRoom> for OpensTheNext {
    async fn handle(&self, _: OpenRoom, cx: &Context<'_>) -> Result<()> {
        cx.send(OpenRoom).await
    }
}

#[tokio::test]
async fn the_emitter_has_the_limits_that_were_set() {
    let app = bootstrap()
        .emitter(|emitter| emitter.with_max_events(3).with_max_depth(2))
        .domain_event::<RoomOpened>(OpensTheNext)
        .request::<OpenRoom>(OpensTheNext)
        .build()
        .await
        .unwrap();
    let error = app.events().emit(RoomOpened).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EventFlood);
    assert!(error.to_string().contains("more than 3 events"), "{error}");
    let error = app.requests().send(OpenRoom).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EventFlood);
    assert!(error.to_string().contains("from within 2 other requests"), "{error}");
}

/// Waits for all the others.
struct Meets(Arc<Barrier>);

impl EventHandler<RoomOpened> for Meets {
    async fn handle(&self, _: &RoomOpened, _: &Context<'_>) -> Result<()> {
        self.0.wait().await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_handlers_run_at_once_as_the_emitter_was_told() {
    let all = Arc::new(Barrier::new(2));
    let app = bootstrap()
        .emitter(|emitter| emitter.with_concurrency(2))
        .domain_event::<RoomOpened>(Meets(all.clone()))
        .domain_event::<RoomOpened>(Meets(all))
        .build()
        .await
        .unwrap();
    let events = app.events();
    tokio::time::timeout(Duration::from_secs(1), events.emit(RoomOpened)).await.unwrap().unwrap();
}
