//! What was said goes out: in which order, and what a failure on the way does.

use cqrs_core::*;

use crate::support::*;

#[derive(Request)]
struct Act;

#[derive(Debug, DomainEvent)]
struct Followed(u32);

/// A mediator whose one handler says this.
fn saying(say: fn(&Context<'_>), emitter: EventEmitter) -> RequestMediator {
    let requests = RequestMap::new().bind(on_request(move |_: Act, cx| {
        Box::pin(async move {
            say(cx);
            Ok(())
        })
    }));
    RequestMediator::new(requests, emitter).unwrap()
}

fn noting(journal: &'static Journal) -> impl EventHandler<Happened> {
    on_event(move |Happened(number): &Happened, _| {
        journal.note(format!("happened {number}"));
        Box::pin(async { Ok(()) })
    })
}

#[tokio::test]
async fn events_go_out_breadth_first_in_the_order_in_which_they_were_said() {
    let journal = Journal::new();
    let broker = Recorder::noting(journal);
    let events = EventMap::new()
        .bind(on_event(move |Happened(number): &Happened, cx| {
            Box::pin(async move {
                journal.note(format!("happened {number}, first handler"));
                cx.emit(Followed(*number * 10));
                cx.emit(Told(*number * 100));
                Ok(())
            })
        }))
        .bind(on_event(move |Happened(number): &Happened, cx| {
            Box::pin(async move {
                journal.note(format!("happened {number}, second handler"));
                cx.emit(Followed(*number * 10 + 1));
                Ok(())
            })
        }))
        .bind(on_event(move |Followed(number): &Followed, _| {
            journal.note(format!("followed {number}"));
            Box::pin(async { Ok(()) })
        }));
    let mediator = saying(
        |cx| {
            cx.emit(Happened(1));
            cx.emit(Told(5));
            cx.emit(Happened(2));
        },
        EventEmitter::new(events).direct(broker),
    );
    mediator.send(Act).await.unwrap();
    assert_eq!(
        journal.entries(),
        [
            "happened 1, first handler",
            "happened 1, second handler",
            "published 5",
            "happened 2, first handler",
            "happened 2, second handler",
            "followed 10",
            "published 100",
            "followed 11",
            "followed 20",
            "published 200",
            "followed 21",
        ]
    );
}

#[tokio::test]
async fn an_event_that_nobody_handles_is_no_error() {
    saying(|cx| cx.emit(Happened(1)), EventEmitter::default()).send(Act).await.unwrap();
}

#[tokio::test]
async fn what_a_failed_handler_said_is_dropped() {
    let (journal, broker) = (Journal::new(), Recorder::new());
    let requests = RequestMap::new().bind(on_request(|_: Act, cx| {
        Box::pin(async move {
            cx.emit(Happened(1));
            cx.emit(Told(1));
            Err(Error::handler("no"))
        })
    }));
    let emitter = EventEmitter::new(EventMap::new().bind(noting(journal))).direct(broker.clone());
    let mediator = RequestMediator::new(requests, emitter).unwrap();
    assert_eq!(mediator.send(Act).await.unwrap_err().to_string(), "no");
    assert!(journal.entries().is_empty());
    assert!(broker.messages().is_empty());
}

#[tokio::test]
async fn a_failed_event_handler_stops_the_domain_events_but_not_what_is_told_to_others() {
    let (journal, broker) = (Journal::new(), Recorder::new());
    let events = EventMap::new()
        .bind(on_event(|Happened(number): &Happened, cx| {
            Box::pin(async move {
                cx.emit(Told(*number + 100));
                if *number == 1 { Err(Error::handler("the handler of 1")) } else { Ok(()) }
            })
        }))
        .bind(noting(journal));
    let mediator = saying(
        |cx| {
            cx.emit(Happened(0));
            cx.emit(Happened(1));
            cx.emit(Happened(2));
            cx.emit(Told(3));
        },
        EventEmitter::new(events).direct(broker.clone()),
    );
    assert_eq!(mediator.send(Act).await.unwrap_err().to_string(), "the handler of 1");
    assert_eq!(journal.entries(), ["happened 0"]);
    // 100 was said by a handler that succeeded, 101 by the one that failed.
    assert_eq!(broker.payloads(), ["3", "100"]);
}

#[tokio::test]
async fn events_that_lead_to_themselves_are_an_error() {
    let journal = Journal::new();
    let events = EventMap::new().bind(noting(journal)).bind(on_event(|Happened(number): &Happened, cx| {
        Box::pin(async move {
            cx.emit(Happened(*number + 1));
            Ok(())
        })
    }));
    let mediator = saying(|cx| cx.emit(Happened(1)), EventEmitter::new(events).with_max_events(5));
    let error = mediator.send(Act).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EventFlood);
    assert!(
        error.to_string().starts_with("one request led to more than 5 events, `happened` the last"),
        "{error}"
    );
    assert_eq!(journal.entries().len(), 5);
}

#[tokio::test]
async fn as_many_events_as_the_limit_says_are_no_flood() {
    let mediator = saying(
        |cx| (0..5).for_each(|number| cx.emit(Happened(number))),
        EventEmitter::default().with_max_events(5),
    );
    mediator.send(Act).await.unwrap();
}

#[tokio::test]
async fn an_integration_event_with_nowhere_to_go_fails_the_request_before_anything_goes_out() {
    let journal = Journal::new();
    let mediator = saying(
        |cx| {
            cx.emit(Happened(1));
            cx.emit(Told(1));
        },
        EventEmitter::new(EventMap::new().bind(noting(journal))),
    );
    let error = mediator.send(Act).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTarget);
    assert!(
        error.to_string().contains("the integration event `told` was said with no transaction"),
        "{error}"
    );
    assert!(journal.entries().is_empty());
}

#[tokio::test]
async fn a_refused_event_fails_the_request_before_anything_goes_out() {
    for (text, refused) in REFUSED {
        let (journal, broker) = (Journal::new(), Recorder::new());
        let requests = RequestMap::new().bind(on_request(move |_: Act, cx| {
            Box::pin(async move {
                cx.emit(Happened(1));
                cx.emit(Told(1));
                refused(cx);
                Ok(())
            })
        }));
        let emitter = EventEmitter::new(EventMap::new().bind(noting(journal))).direct(broker.clone());
        let mediator = RequestMediator::new(requests, emitter).unwrap();
        let error = mediator.send(Act).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEvent);
        assert!(error.to_string().contains(text), "{error}");
        assert!(journal.entries().is_empty());
        assert!(broker.messages().is_empty());
    }
}

#[tokio::test]
async fn an_event_said_outside_of_any_request_reaches_its_handlers() {
    let journal = Journal::new();
    let mediator = EventMediator::new(EventEmitter::new(EventMap::new().bind(noting(journal)))).unwrap();
    mediator.emit(Happened(7)).await.unwrap();
    assert_eq!(journal.entries(), ["happened 7"]);
    assert_eq!(mediator.emit(Told(7)).await.unwrap_err().kind(), ErrorKind::NoTarget);
}

#[tokio::test]
async fn an_event_handler_can_send_requests() {
    let journal = Journal::new();
    let requests = RequestMap::new().bind(on_request(move |_: Act, _| {
        journal.note("acted");
        Box::pin(async { Ok(()) })
    }));
    let events =
        EventMap::new().bind(on_event(|_: &Happened, cx| Box::pin(async move { cx.send(Act).await })));
    let mediator = RequestMediator::new(requests, EventEmitter::new(events)).unwrap();
    mediator.events().emit(Happened(1)).await.unwrap();
    assert_eq!(journal.entries(), ["acted"]);
}

#[tokio::test]
async fn it_does_not_matter_where_the_refused_event_stands() {
    let sayings: [fn(&Context<'_>); 6] = [
        |cx| cx.emit(Unspeakable),
        |cx| {
            cx.emit(Unspeakable);
            cx.emit(Happened(1));
        },
        |cx| {
            cx.emit(Happened(1));
            cx.emit(Happened(2));
            cx.emit(Unspeakable);
        },
        |cx| {
            cx.scope().set(1_u32);
            cx.emit(Unspeakable);
        },
        |cx| {
            cx.emit(Happened(1));
            cx.scope().set(1_u32);
            cx.emit(Unspeakable);
        },
        |cx| {
            cx.emit(Told(1));
            cx.emit(Unspeakable);
            cx.emit(Happened(1));
        },
    ];
    for (number, say) in sayings.into_iter().enumerate() {
        let (journal, broker) = (Journal::new(), Recorder::new());
        let emitter = EventEmitter::new(EventMap::new().bind(noting(journal))).direct(broker.clone());
        let error = saying(say, emitter).send(Act).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{number}");
        assert!(journal.entries().is_empty() && broker.messages().is_empty(), "{number}");
    }
}

#[tokio::test]
async fn what_is_said_first_goes_out_first_whatever_it_is() {
    let sayings: [fn(&Context<'_>); 4] = [
        |cx| {
            cx.emit(Told(1));
            cx.emit(Happened(2));
            cx.emit(Told(3));
            cx.emit(Happened(4));
        },
        |cx| {
            cx.scope().set(0_u32);
            cx.emit(Told(1));
            cx.emit(Happened(2));
            cx.emit(Told(3));
            cx.emit(Happened(4));
        },
        |cx| {
            cx.emit(Told(1));
            cx.scope().set(0_u32);
            cx.emit(Happened(2));
            cx.emit(Told(3));
            cx.emit(Happened(4));
        },
        |cx| {
            cx.scope().set(0_u32);
            cx.emit(Happened(2));
            cx.emit(Told(3));
            cx.emit(Happened(4));
        },
    ];
    for (number, say) in sayings.into_iter().enumerate() {
        let journal = Journal::new();
        let emitter = EventEmitter::new(EventMap::new().bind(on_event(move |event: &Happened, cx| {
            // The scope is still there, if there was one.
            journal.note(format!("happened {} {:?}", event.0, cx.scope().get::<u32>()));
            Box::pin(async { Ok(()) })
        })))
        .direct(Recorder::noting(journal));
        saying(say, emitter).send(Act).await.unwrap();
        let kept = if number == 0 { "None" } else { "Some(0)" };
        let expected = [
            "published 1".to_owned(),
            format!("happened 2 {kept}"),
            "published 3".into(),
            format!("happened 4 {kept}"),
        ];
        assert_eq!(journal.entries(), expected[usize::from(number == 3)..], "{number}");
    }
}
