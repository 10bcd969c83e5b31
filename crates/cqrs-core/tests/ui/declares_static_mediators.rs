use cqrs_core::{Context, Request, RequestHandler, Result, mediator};

#[derive(Request)]
struct OpenRoom;

#[derive(Request)]
struct CloseRoom;

struct Handler;

impl RequestHandler<OpenRoom> for Handler {
    async fn handle(&self, _: OpenRoom, _: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

mediator! {
    struct Twins {
        one: OpenRoom => Handler,
        two: OpenRoom => Handler,
    }
}

mediator! {
    struct NotItsHandler {
        close: CloseRoom => Handler,
    }
}

mediator! {
    struct NoHandler {
        open: OpenRoom,
    }
}

mediator! {
    struct Generic<H> {
        open: OpenRoom => H,
    }
}

fn main() {}
