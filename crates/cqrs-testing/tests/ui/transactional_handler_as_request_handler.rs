use cqrs_bootstrap::bootstrap;
use cqrs_core::{Context, Request, Result, TransactionalHandler};
use cqrs_outbox::memory::{Memory, MemoryTx};

#[derive(Request)]
struct CloseRoom;

struct CloseRoomHandler;

impl TransactionalHandler<CloseRoom, Memory> for CloseRoomHandler {
    async fn handle(&self, _: CloseRoom, _: &mut MemoryTx, _: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

fn main() {
    let _ = bootstrap().request::<CloseRoom>(CloseRoomHandler);
}
