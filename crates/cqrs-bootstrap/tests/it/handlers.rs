//! What the builder passes on to the mediators: streams, families, middlewares of events, the emitter's settings.

use std::sync::Arc;

use cqrs_bootstrap::bootstrap;
use cqrs_core::*;
use cqrs_outbox::MemoryOutbox;
use futures_util::{Stream, TryStreamExt, stream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::world::{CloseRoom, CloseRoomHandler, RoomClosed, Tell};

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

fn told(told: &mut UnboundedReceiver<String>) -> Vec<String> {
    std::iter::from_fn(|| told.try_recv().ok()).collect()
}

#[tokio::test]
async fn handlers_of_all_kinds_are_registered() {
    let (sender, mut heard) = unbounded_channel();
    let tell = Tell(Arc::new(sender));
    let app = bootstrap()
        .outbox(MemoryOutbox::new())
        .without_relay()
        .emitter(|emitter| emitter.with_on_failure(OnEventFailure::RunAll).with_concurrency(2))
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
    let error = app.requests().send(OpenRoom).await.unwrap_err();
    assert_eq!(error.downcast_ref::<EventErrors>().unwrap().iter().count(), 2);
    assert_eq!(told(&mut heard), ["room_opened", "around room_opened", "room_opened"]);
    app.requests().send(CloseRoom { room: 1, fails: false }).await.unwrap_err();
    assert_eq!(told(&mut heard), ["room_closed"]);
}
