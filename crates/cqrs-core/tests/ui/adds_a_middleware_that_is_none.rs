//! Something that is not a middleware around a request; and one that wants more of the request than it has.
use cqrs_core::{Context, Middleware, Next, Reply, Request, RequestHandler, RequestMap, Result};

#[derive(Request)]
struct CloseRoom;

struct CloseRoomHandler;

impl RequestHandler<CloseRoom> for CloseRoomHandler {
    async fn handle(&self, _: CloseRoom, _cx: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

struct Audit;

struct Retry;

impl<R: Request + Clone> Middleware<R> for Retry {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        next.run(request, cx).await
    }
}

fn main() {
    let _ = RequestMap::new().middleware(Audit).bind::<CloseRoom>(CloseRoomHandler);
    let _ = RequestMap::new().bind_with::<CloseRoom>(Audit, CloseRoomHandler);
    let _ = RequestMap::new().middleware(Retry).bind::<CloseRoom>(CloseRoomHandler);
}
