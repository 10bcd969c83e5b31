use cqrs_core::{Context, Request, RequestMap, Result, Retry, RequestHandler, StreamRequest};

#[derive(StreamRequest)]
struct WithoutAnItem;

#[derive(StreamRequest)]
#[request(item = u32, response = u32)]
struct WithAResponse;

#[derive(StreamRequest)]
#[request(item = u32, retry, validate)]
struct NeitherCloneNorValidate;

#[derive(Request)]
#[request(retry)]
struct NotClone;

#[derive(Clone, Request)]
#[request(retry = 3)]
struct WithANumber;

#[derive(Request)]
#[request(validate)]
struct NotValidate;

struct OwnError;

impl From<cqrs_core::Error> for OwnError {
    fn from(_: cqrs_core::Error) -> Self {
        Self
    }
}

#[derive(Request)]
#[request(error = OwnError)]
struct WithOwnError;

struct Handler;

impl RequestHandler<WithOwnError> for Handler {
    async fn handle(&self, _: WithOwnError, _: &Context<'_>) -> Result<(), OwnError> {
        Ok(())
    }
}

fn streams_from_no_handler() {
    let _ = RequestMap::new().bind_stream::<WithAResponse>(Handler);
    let _ = RequestMap::new().middleware(Retry::default()).bind::<WithOwnError>(Handler);
}

fn main() {}
