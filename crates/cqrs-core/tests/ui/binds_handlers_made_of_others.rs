use cqrs_core::{
    Chain, Context, Dispatch, DomainEvent, EventEmitter, EventHandler, EventMap, OfFamily, Request, RequestHandler,
    RequestMap, Result, StaticMediator,
};

#[derive(Request)]
struct Approve;

#[derive(Clone, DomainEvent)]
struct RoomOpened;

#[derive(Clone, DomainEvent)]
struct RoomClosed;

struct Handler;

impl RequestHandler<Approve> for Handler {
    async fn handle(&self, _: Approve, _: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

impl EventHandler<RoomOpened> for Handler {
    async fn handle(&self, _: &RoomOpened, _: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

struct RoomChanged;

struct NotDeclared;

fn approves(_: impl Dispatch<Approve>) {}

fn main() {
    let _ = RequestMap::new().bind::<Approve>(Chain::new().link(Handler));
    let _ = EventMap::new().bind_family::<(RoomOpened, RoomClosed), _>(Handler);
    let _ = OfFamily::<RoomChanged, _>::new(Handler);
    let _ = EventMap::new().middleware(Handler).bind::<RoomOpened>(Handler);
    approves(Handler);
    let _ = StaticMediator::new(NotDeclared, RequestMap::new(), EventEmitter::default());
}
