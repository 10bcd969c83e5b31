use cqrs_core::{Context, Request, RequestHandler, Result, mediator};

#[derive(Request)]
#[request(response = u32)]
struct CountRooms;

struct Handler;

impl RequestHandler<CountRooms> for Handler {
    async fn handle(&self, _: CountRooms, _: &Context<'_>) -> Result<String> {
        Ok("many".to_owned())
    }
}

mediator! {
    struct Rooms {
        count: CountRooms => Handler,
    }
}

fn main() {}
