//! How often a send allocates: counted, not measured, so that every change shows.

use std::sync::Arc;

use allocation_counter::measure;
use cqrs_benches::{
    ByHand, Command, Handler, Happened, Pass, Saying, inside, mediator, now, others, static_mediator,
};
use cqrs_core::__private::RECORDS;

const COMMAND: Command = Command([1, 2, 3, 4]);

#[test]
fn the_reference_allocates_once() {
    let counted = inside(|cx| {
        let by_hand: Arc<dyn ByHand> = Arc::new(Handler);
        measure(|| assert_eq!(now(by_hand.handle(COMMAND, cx)).unwrap(), 10))
    });
    assert_eq!(counted.unwrap().count_total, 1);
}

#[test]
fn a_send_allocates_once() {
    let mediator = mediator(others()).unwrap();
    let counted = measure(|| assert_eq!(now(mediator.send(COMMAND)).unwrap(), 10));
    assert_eq!(counted.count_total, 1);
    assert_eq!(counted.count_current, 0);
}

#[test]
fn a_send_by_its_handle_allocates_once() {
    let handle = mediator(others()).unwrap().handle_of::<Command>().unwrap();
    let counted = measure(|| assert_eq!(now(handle.send(COMMAND)).unwrap(), 10));
    assert_eq!(counted.count_total, 1);
    assert_eq!(counted.count_current, 0);
}

#[test]
fn a_send_through_three_middlewares_allocates_once() {
    let mediator = mediator(others().middleware(Pass).middleware(Pass).middleware(Pass)).unwrap();
    let counted = measure(|| assert_eq!(now(mediator.send(COMMAND)).unwrap(), 10));
    assert_eq!(counted.count_total, 1);
    assert_eq!(counted.count_current, 0);
}

#[test]
fn a_static_send_allocates_nothing() {
    let mediator = static_mediator().unwrap();
    let counted = measure(|| assert_eq!(now(mediator.send(COMMAND)).unwrap(), 10));
    assert_eq!(counted.count_total, 0);
}

/// The send, the event, and the future of its handler.
#[test]
fn a_send_that_says_one_event_allocates_three_times() {
    let mediator = mediator(others()).unwrap();
    let counted = measure(|| assert_eq!(now(mediator.send(Saying([1, 2, 3, 4]))).unwrap(), 10));
    assert_eq!(counted.count_total, 3 + u64::from(RECORDS));
    assert_eq!(counted.count_current, 0);
}

/// The future of its handler.
#[test]
fn an_event_from_outside_allocates_once() {
    let events = mediator(others()).unwrap().events();
    let counted = measure(|| now(events.emit(Happened(1))).unwrap());
    assert_eq!(counted.count_total, 1 + u64::from(RECORDS));
    assert_eq!(counted.count_current, 0);
}
