//! The outbox store and the inbox of the cqrs toolkit on diesel and diesel-async
