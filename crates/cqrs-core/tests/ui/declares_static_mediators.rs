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

mod rooms {
    pub struct Numbers<T>(pub T);
}

mediator! {
    struct NorThisOne {
        open: OpenRoom => Handler,
        close: crate::CloseRoom => rooms::Numbers<u8>,
    }
}

struct Counts;

#[derive(Request)]
#[request(response = u64)]
struct CountRooms;

impl RequestHandler<CountRooms> for Counts {
    async fn handle(&self, _: CountRooms, _: &Context<'_>) -> Result<String> {
        Ok(String::new())
    }
}

mediator! {
    struct AnswersSomethingElse {
        count: CountRooms => Counts,
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

mediator! {
    struct TwoOfAName {
        open: OpenRoom => Handler,
        open: CountRooms => Handler,
    }
}

mediator! {
    struct TwoPredicates {
        #[cfg(unix, not(unix))]
        open: OpenRoom => Handler,
    }
}

fn main() {}
