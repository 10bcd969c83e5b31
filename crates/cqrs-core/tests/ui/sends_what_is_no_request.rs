//! Sending something that is not a request.
use cqrs_core::RequestMediator;

struct CloseRoom;

async fn close(mediator: &RequestMediator) {
    let _ = mediator.send(CloseRoom).await;
}

fn main() {}
