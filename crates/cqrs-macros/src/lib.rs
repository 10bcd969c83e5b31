//! Derives for the requests and events of the cqrs toolkit
