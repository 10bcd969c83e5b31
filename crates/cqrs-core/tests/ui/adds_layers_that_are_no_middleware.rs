//! Layers of `tower` that cannot be a middleware: one that wants a request as it is, one whose service cannot be cloned,
//! one that answers with something else, one that serves a single type of request; an error that they cannot pass on; and a stream.
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use cqrs_core::{Context, Request, RequestHandler, RequestMap, Result, StreamHandler, StreamRequest, TowerLayer};
use futures_util::{Stream, stream};
use tower::buffer::BufferLayer;
use tower::layer::layer_fn;
use tower::{Service, ServiceBuilder};

#[derive(Request)]
struct CloseRoom;

struct CloseRoomHandler;

impl RequestHandler<CloseRoom> for CloseRoomHandler {
    async fn handle(&self, _: CloseRoom, _cx: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

#[derive(Clone)]
struct OnlyCloseRoom;

impl Service<CloseRoom> for OnlyCloseRoom {
    type Response = ();
    type Error = cqrs_core::Error;
    type Future = std::future::Ready<Result<()>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: CloseRoom) -> Self::Future {
        std::future::ready(Ok(()))
    }
}

struct Silent;

impl From<cqrs_core::Error> for Silent {
    fn from(_: cqrs_core::Error) -> Self {
        Self
    }
}

#[derive(Request)]
#[request(error = Silent)]
struct OpenRoom;

struct OpenRoomHandler;

impl RequestHandler<OpenRoom> for OpenRoomHandler {
    async fn handle(&self, _: OpenRoom, _cx: &Context<'_>) -> Result<(), Silent> {
        Ok(())
    }
}

#[derive(StreamRequest)]
#[request(item = u32)]
struct ReadRooms;

struct Rooms;

impl StreamHandler<ReadRooms> for Rooms {
    fn handle(&self, _: ReadRooms, _: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
        stream::empty()
    }
}

fn main() {
    let _ = TowerLayer::new(BufferLayer::<CloseRoom>::new(8));

    let rate = TowerLayer::new(ServiceBuilder::new().rate_limit(1, Duration::from_secs(1)));
    let _ = RequestMap::new().middleware(rate);

    let answer = TowerLayer::new(ServiceBuilder::new().map_response(|()| 1));
    let _ = RequestMap::new().middleware(answer).bind::<CloseRoom>(CloseRoomHandler);

    let only = TowerLayer::new(layer_fn(|_| OnlyCloseRoom));
    let _ = RequestMap::new().middleware(only).bind::<CloseRoom>(CloseRoomHandler);

    let timeout = TowerLayer::new(ServiceBuilder::new().timeout(Duration::from_secs(1)));
    let _ = RequestMap::new().middleware(timeout).bind::<OpenRoom>(OpenRoomHandler);

    let limit = TowerLayer::new(ServiceBuilder::new().concurrency_limit(1));
    let _ = RequestMap::new().stream_middleware(limit).bind_stream::<ReadRooms>(Rooms);
}
