use cqrs_core::{Context, Dispatch, EventEmitter, Request, RequestHandler, RequestMap, Result, StaticMediator, mediator};

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
    struct Rooms {
        open: OpenRoom => Handler,
        close: CloseRoom => Handler,
    }
}

async fn close(closes: &impl Dispatch<CloseRoom>) {
    let _ = closes.send(CloseRoom).await;
}

// Nothing but the line of the handler is told.
async fn misses() {
    let rooms =
        StaticMediator::new(Rooms { open: Handler, close: Handler }, RequestMap::new(), EventEmitter::default()).unwrap();
    let _ = rooms.send(CloseRoom).await;
    let _ = rooms.send(OpenRoom).await;
    close(&rooms).await;
}

fn main() {}
