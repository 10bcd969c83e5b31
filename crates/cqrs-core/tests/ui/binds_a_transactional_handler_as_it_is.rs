//! A handler that wants a transaction, bound as if it did not.
use cqrs_core::{Context, Database, Request, RequestMap, Result, Transaction, TransactionalHandler};

#[derive(Request)]
struct CloseRoom;

struct CloseRoomHandler;

impl<D: Database> TransactionalHandler<CloseRoom, D> for CloseRoomHandler
where
    D::Tx: Transaction,
{
    async fn handle(&self, _: CloseRoom, _tx: &mut D::Tx, _cx: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

fn main() {
    let _ = RequestMap::new().bind::<CloseRoom>(CloseRoomHandler);
}
