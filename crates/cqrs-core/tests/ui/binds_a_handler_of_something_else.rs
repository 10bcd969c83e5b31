//! Binding a handler to a request that it does not handle.
use cqrs_core::{Context, Request, RequestHandler, RequestMap, Result};

#[derive(Request)]
struct CloseRoom;

#[derive(Request)]
struct OpenRoom;

struct OpenRoomHandler;

impl RequestHandler<OpenRoom> for OpenRoomHandler {
    async fn handle(&self, _: OpenRoom, _cx: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

fn main() {
    let _ = RequestMap::new().bind::<CloseRoom>(OpenRoomHandler);
}
