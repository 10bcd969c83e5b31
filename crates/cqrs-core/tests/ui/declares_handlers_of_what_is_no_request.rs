//! What stands before a `=>` and is no request.
use cqrs_core::{Context, Request, RequestHandler, Result, StreamRequest, mediator};

struct CloseRoom;

#[derive(StreamRequest)]
#[request(item = u32)]
struct ReadRooms;

#[derive(Request)]
struct OpenRoom;

struct Handler;

impl RequestHandler<OpenRoom> for Handler {
    async fn handle(&self, _: OpenRoom, _: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

mediator! {
    struct Plain {
        open: OpenRoom => Handler,
        close: CloseRoom => Handler,
    }
}

mediator! {
    struct Streams {
        read: crate::ReadRooms => Handler,
    }
}

fn main() {}
