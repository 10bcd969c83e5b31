//! A middleware around a streaming request that serves only requests that are answered once.
use cqrs_core::{
    Context, Middleware, Next, Reply, Request, RequestMap, Result, StreamHandler, StreamRequest,
};
use futures_util::{Stream, stream};

#[derive(StreamRequest)]
#[request(item = u32)]
struct ReadRooms;

struct Rooms;

impl StreamHandler<ReadRooms> for Rooms {
    fn handle(&self, _: ReadRooms, _: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        stream::empty()
    }
}

struct Audit;

impl<R: Request> Middleware<R> for Audit {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        next.run(request, cx).await
    }
}

fn main() {
    let _ = RequestMap::new().middleware(Audit).bind_stream::<ReadRooms>(Rooms);
    let _ = RequestMap::new().stream_middleware(Audit).bind_stream::<ReadRooms>(Rooms);
}
