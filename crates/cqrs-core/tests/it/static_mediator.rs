//! Mediators whose handlers the compiler knows.

use std::time::Duration;

use cqrs_core::*;

use crate::support::*;

#[derive(Request)]
#[request(response = u64)]
struct Add(u64, u64);

#[derive(Request)]
#[request(response = u64)]
struct Twice(u64);

#[derive(Request)]
#[request(name = "halve", error = Odd)]
struct Halve(u64);

#[derive(Debug)]
struct Odd(Option<Error>);

impl From<Error> for Odd {
    fn from(error: Error) -> Self {
        Self(Some(error))
    }
}

struct Arithmetician(&'static Journal);

impl RequestHandler<Add> for Arithmetician {
    async fn handle(&self, add: Add, cx: &Context<'_>) -> Result<u64> {
        cx.emit(Happened(1));
        self.0.note("adds");
        Ok(add.0 + add.1)
    }
}

impl RequestHandler<Twice> for Arithmetician {
    async fn handle(&self, twice: Twice, cx: &Context<'_>) -> Result<u64> {
        cx.send(Add(twice.0, twice.0)).await
    }
}

impl RequestHandler<Halve> for Arithmetician {
    async fn handle(&self, halve: Halve, cx: &Context<'_>) -> Result<(), Odd> {
        cx.emit(Happened(2));
        if halve.0.is_multiple_of(2) { Ok(()) } else { Err(Odd(None)) }
    }
}

mediator! {
    /// All of it.
    struct Arithmetic {
        /// Adds.
        add: Add => Arithmetician,
        twice: Twice => Arithmetician,
        halve: Halve => Arithmetician,
    }
}

mediator! {
    /// Attributes of the struct stay there.
    #[mediator(crate = "cqrs_core")]
    #[derive(Clone, Debug)]
    pub(crate) struct Empty {}
}

/// Names that the macro might have had for itself.
#[derive(Request)]
struct S;

#[derive(Request)]
struct NamedBound;

impl RequestHandler<NamedBound> for Arithmetician {
    async fn handle(&self, _: NamedBound, _: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

impl RequestHandler<S> for Arithmetician {
    async fn handle(&self, _: S, _: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

// And these are names that it does have for itself.
mediator! {
    struct Named {
        __requests: S => Arithmetician,
        __stack: Add => Arithmetician,
        r#type: Twice => Arithmetician,
        bound: Halve => Arithmetician,
        named: NamedBound => Arithmetician,
    }
}

#[tokio::test]
async fn fields_and_types_may_have_any_name() {
    let journal = Journal::new();
    let handlers = Named {
        __requests: Arithmetician(journal),
        __stack: Arithmetician(journal),
        r#type: Arithmetician(journal),
        bound: Arithmetician(journal),
        named: Arithmetician(journal),
    };
    let mediator = StaticMediator::new(handlers, RequestMap::new(), EventEmitter::default()).unwrap();
    mediator.send(S).await.unwrap();
    assert_eq!(mediator.send(Twice(2)).await.unwrap(), 4);
    mediator.send(Halve(2)).await.unwrap();
}

// What is off need not be there, and one of two for a request may be on.
mediator! {
    #[cfg(all())]
    struct Conditional {
        #[cfg(any())]
        add: NotThere => NeitherThisOne,
        /// Is there.
        #[cfg(all())]
        #[allow(dead_code)]
        add: Add => Arithmetician,
        #[cfg(all())]
        #[cfg(not(test))]
        twice: Twice => NeitherThisOne,
        #[cfg(test)]
        twice: Twice => Arithmetician,
        halve: Halve => Arithmetician,
    }
}

mediator! {
    #[cfg(any())]
    struct Conditional {
        add: Add => NeitherThisOne,
    }
}

#[tokio::test]
async fn a_condition_of_a_field_is_one_of_all_that_belongs_to_it() {
    mediator! {
        struct Within {
            #[cfg(any())]
            add: Add => NeitherThisOne,
            #[cfg_attr(all(), cfg_attr(all(), cfg(any())))]
            twice: Twice => NeitherThisOne,
            #[cfg(all(),)]
            #[cfg(test)]
            #[cfg_attr(any(), cfg_attr(any(), doc = "of no consequence"))]
            halve: Halve => Arithmetician,
        }
    }

    let journal = Journal::new();
    let handlers = Conditional {
        add: Arithmetician(journal),
        twice: Arithmetician(journal),
        halve: Arithmetician(journal),
    };
    let mediator = StaticMediator::new(handlers, RequestMap::new(), EventEmitter::default()).unwrap();
    assert_eq!(mediator.send(Twice(2)).await.unwrap(), 4);
    mediator.send(Halve(2)).await.unwrap();

    let handlers = Within { halve: Arithmetician(journal) };
    // `Add` is not among its handlers, so there is room for one in the map.
    let requests = RequestMap::new().bind::<Add>(Arithmetician(journal));
    let mediator = StaticMediator::new(handlers, requests, EventEmitter::default()).unwrap();
    mediator.send(Halve(2)).await.unwrap();
}

/// More than the compiler expands within one another: with a field for each, half of them twice as what is not there.
macro_rules! many {
    ($($name:ident)*) => {
        #[allow(non_camel_case_types)]
        mod many_requests {
            $(#[derive(cqrs_core::Request)] #[request(response = &'static str)] pub(super) struct $name;)*
        }

        struct Answers;

        $(
            impl RequestHandler<many_requests::$name> for Answers {
                async fn handle(&self, _: many_requests::$name, _: &Context<'_>) -> Result<&'static str> {
                    Ok(stringify!($name))
                }
            }
        )*

        mediator! {
            struct Many {
                $($name: many_requests::$name => Answers,)*
            }
        }

        mediator! {
            struct ManyUnderConditions {
                $(
                    #[cfg(any())]
                    $name: NotThere => NeitherThisOne,
                    #[cfg(test)]
                    $name: many_requests::$name => Answers,
                )*
            }
        }

        fn many() -> (Many, ManyUnderConditions) {
            (Many { $($name: Answers),* }, ManyUnderConditions { $($name: Answers),* })
        }
    };
}

#[rustfmt::skip]
many! {
    f000 f001 f002 f003 f004 f005 f006 f007 f008 f009 f010 f011 f012 f013 f014 f015 f016 f017 f018 f019
    f020 f021 f022 f023 f024 f025 f026 f027 f028 f029 f030 f031 f032 f033 f034 f035 f036 f037 f038 f039
    f040 f041 f042 f043 f044 f045 f046 f047 f048 f049 f050 f051 f052 f053 f054 f055 f056 f057 f058 f059
    f060 f061 f062 f063 f064 f065 f066 f067 f068 f069 f070 f071 f072 f073 f074 f075 f076 f077 f078 f079
    f080 f081 f082 f083 f084 f085 f086 f087 f088 f089 f090 f091 f092 f093 f094 f095 f096 f097 f098 f099
    f100 f101 f102 f103 f104 f105 f106 f107 f108 f109 f110 f111 f112 f113 f114 f115 f116 f117 f118 f119
    f120 f121 f122 f123 f124 f125 f126 f127 f128 f129 f130 f131 f132 f133 f134 f135 f136 f137 f138 f139
    f140 f141 f142 f143 f144 f145 f146 f147 f148 f149 f150 f151 f152 f153 f154 f155 f156 f157 f158 f159
    f160 f161 f162 f163 f164 f165 f166 f167 f168 f169 f170 f171 f172 f173 f174 f175 f176 f177 f178 f179
    f180 f181 f182 f183 f184 f185 f186 f187 f188 f189 f190 f191 f192 f193 f194 f195 f196 f197 f198 f199
    f200 f201 f202 f203 f204 f205 f206 f207 f208 f209 f210 f211 f212 f213 f214 f215 f216 f217 f218 f219
    f220 f221 f222 f223 f224 f225 f226 f227 f228 f229 f230 f231 f232 f233 f234 f235 f236 f237 f238 f239
    f240 f241 f242 f243 f244 f245 f246 f247 f248 f249 f250 f251 f252 f253 f254 f255 f256 f257 f258 f259
    f260 f261 f262 f263 f264 f265 f266 f267 f268 f269 f270 f271 f272 f273 f274 f275 f276 f277 f278 f279
    f280 f281 f282 f283 f284 f285 f286 f287 f288 f289 f290 f291 f292 f293 f294 f295 f296 f297 f298 f299
}

#[tokio::test]
async fn hundreds_of_handlers_are_no_too_many_with_conditions_and_without() {
    let (many, under_conditions) = many();
    let sent = StaticMediator::new(many, RequestMap::new(), EventEmitter::default()).unwrap();
    assert_eq!(sent.send(many_requests::f000).await.unwrap(), "f000");
    assert_eq!(sent.send(many_requests::f299).await.unwrap(), "f299");
    let sent = StaticMediator::new(under_conditions, RequestMap::new(), EventEmitter::default()).unwrap();
    assert_eq!(sent.send(many_requests::f150).await.unwrap(), "f150");
    assert_eq!(sent.requests().send(many_requests::f299).await.unwrap(), "f299");
}

fn arithmetic<S>(requests: RequestMap<S>, journal: &'static Journal) -> Result<StaticMediator<Arithmetic, S>>
where
    Arithmetic: StaticHandlers<S>,
{
    let handlers = Arithmetic {
        add: Arithmetician(journal),
        twice: Arithmetician(journal),
        halve: Arithmetician(journal),
    };
    let events = EventMap::new().bind(on_event(move |Happened(number): &Happened, cx| {
        journal.note(format!("happened {number}"));
        let again = *number == 2;
        Box::pin(async move { if again { cx.send(Add(1, 1)).await.map(drop) } else { Ok(()) } })
    }));
    StaticMediator::new(handlers, requests, EventEmitter::new(events))
}

#[tokio::test]
async fn requests_reach_their_handlers_and_events_go_out() {
    let journal = Journal::new();
    let mediator = arithmetic(RequestMap::new(), journal).unwrap();
    assert_eq!(mediator.send(Add(1, 2)).await.unwrap(), 3);
    assert_eq!(journal.entries(), ["adds", "happened 1"]);
    journal.clear();
    assert!(matches!(mediator.send(Halve(3)).await, Err(Odd(None))));
    assert!(journal.entries().is_empty());
}

#[tokio::test]
async fn handlers_and_events_reach_the_same_handlers() {
    let journal = Journal::new();
    let mediator = arithmetic(RequestMap::new(), journal).unwrap();
    assert_eq!(mediator.send(Twice(4)).await.unwrap(), 8);
    mediator.send(Halve(2)).await.unwrap();
    assert_eq!(journal.entries(), ["adds", "happened 1", "happened 2", "adds", "happened 1"]);
    assert_eq!(mediator.requests().send(Add(2, 2)).await.unwrap(), 4);
    mediator.events().emit(Happened(7)).await.unwrap();
    assert_eq!(journal.entries().last().unwrap(), "happened 7");
}

#[tokio::test]
async fn middlewares_of_the_map_stand_around_its_handlers() {
    struct Note(&'static Journal);

    impl<R: Request> Middleware<R> for Note {
        async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
            self.0.note(R::name());
            next.run(request, cx).await
        }
    }

    let journal = Journal::new();
    let requests =
        RequestMap::new().middleware(Note(journal)).middleware(Timeout::after(Duration::from_secs(5)));
    let mediator = arithmetic(requests, journal).unwrap();
    mediator.send(Twice(4)).await.unwrap();
    assert_eq!(journal.entries(), ["Twice", "Add", "adds", "happened 1"]);
}

#[tokio::test]
async fn what_else_is_bound_to_the_map_is_found_there_and_twice_is_an_error() {
    #[derive(Request)]
    struct Other;
    let other = on_request(|_: Other, _| Box::pin(async { Ok(()) }));
    let mediator = arithmetic(RequestMap::new().bind(other), Journal::new()).unwrap();
    mediator.requests().send(Other).await.unwrap();

    let bound = RequestMap::new().bind::<Add>(Arithmetician(Journal::new()));
    let error = arithmetic(bound, Journal::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("two handlers are bound to the request `Add`"), "{error}");
}

#[test]
fn a_set_of_handlers_may_be_empty() {
    StaticMediator::new(Empty {}.clone(), RequestMap::new(), EventEmitter::default()).unwrap();
}

/// What code that does not care asks for.
async fn add_up(adds: &impl Dispatch<Add>) -> u64 {
    let three = adds.send(Add(1, 2)).await.unwrap();
    adds.send(Add(three, 4)).await.unwrap()
}

#[tokio::test]
async fn code_can_take_any_mediator() {
    /// What a test puts in its place.
    struct Scripted;

    impl Dispatch<Add> for Scripted {
        async fn send(&self, add: Add) -> Result<u64> {
            Ok(add.0 + 100)
        }
    }

    #[derive(Request)]
    #[request(response = u64)]
    struct Inside;

    let inside = on_request(|_: Inside, cx| Box::pin(async move { Ok(add_up(cx).await) }));
    let known = arithmetic(RequestMap::new().bind(inside), Journal::new()).unwrap();
    assert_eq!(add_up(&known).await, 7);
    assert_eq!(add_up(known.requests()).await, 7);
    assert_eq!(add_up(&known.requests().handle_of::<Add>().unwrap()).await, 7);
    assert_eq!(add_up(&&std::sync::Arc::new(known.clone())).await, 7);
    assert_eq!(known.requests().send(Inside).await.unwrap(), 7);
    assert_eq!(add_up(&Scripted).await, 201);
}

#[tokio::test(start_paused = true)]
async fn options_go_along_with_its_requests() {
    struct Sleeps;

    impl RequestHandler<Add> for Sleeps {
        async fn handle(&self, _: Add, cx: &Context<'_>) -> Result<u64> {
            assert_eq!(cx.correlation(), Correlation::new("mine"));
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(0)
        }
    }

    mediator! {
        struct Slow {
            add: Add => Sleeps,
        }
    }

    let mediator =
        StaticMediator::new(Slow { add: Sleeps }, RequestMap::new(), EventEmitter::default()).unwrap();
    let options = SendOptions::default()
        .with_timeout(Duration::from_secs(1))
        .with_correlation(Correlation::new("mine"));
    assert_eq!(mediator.send_with(Add(1, 1), &options).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn its_future_can_be_spawned() {
    let mediator = arithmetic(RequestMap::new(), Journal::new()).unwrap();
    let sum = tokio::spawn(async move { mediator.send(Twice(2)).await }).await.unwrap().unwrap();
    assert_eq!(sum, 4);
}
