//! What a run says in the end.

use serde_json::json;

use crate::bench::{Bench, totals};

#[test]
fn the_file_that_ships_with_it() {
    let bench = Bench::new();
    let report = bench.report(&[], "");
    assert_eq!(
        report["commands"],
        json!({
            "done": 327, "refused": 49, "queries_answered": 41, "executed_earlier": 0
        })
    );
    assert_eq!(
        report["events"],
        json!({
            "committed": 327, "relayed": 327, "consumed": 327, "duplicates_dropped": 327 / 20
        })
    );
    assert_eq!(report["state"], json!({ "rooms": 35, "open_rooms": 5, "participants": 36 }));
    assert_eq!(report["check"], json!({ "holds": true, "differences": [] }));
    assert_eq!(report["latency"]["events"], 327);
    assert_eq!(
        report["refused_by_kind"],
        json!([
            { "kind": "not joined", "count": 12 },
            { "kind": "closed", "count": 11 },
            { "kind": "malformed", "count": 10 },
            { "kind": "invalid", "count": 5 },
            { "kind": "full", "count": 4 },
            { "kind": "no such room", "count": 4 },
            { "kind": "already joined", "count": 2 },
            { "kind": "already opened", "count": 1 },
        ])
    );

    // It came to its end, so the next one begins anew.
    let again = bench.report(&["--redeliver-every", "0"], "");
    assert_eq!(totals(&again), totals(&report));
    assert_eq!(again["commands"]["executed_earlier"], 0);
    assert_eq!(again["events"]["duplicates_dropped"], 0);
}

#[test]
fn for_people() {
    let ended = Bench::new().run(&[], "");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    for line in [
        r#"  line     39   malformed        not JSON: EOF while parsing an object (column 53)"#,
        r#"  line    171   full             all 12 seats of the room "r-8" are taken"#,
        "  commands   done                       327",
        "             refused                     49",
        "  queries    answered                    41",
        "             consumed                   327",
        "The projection equals the source: 35 rooms, 5 of them open, 36 participants.",
    ] {
        assert!(ended.stdout.lines().any(|found| found == line), "{line:?} is not in\n{}", ended.stdout);
    }
}

#[test]
fn many_refusals_are_counted() {
    let input = r#"{"command":"close_room","room":"r-1"}"#.to_owned() + "\n" + &"?\n".repeat(60);
    let ended = Bench::new().run(&["-"], input);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().filter(|line| line.starts_with("  line")).count(), 50);
    assert!(ended.stdout.contains("and 11 more"), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("           60   malformed\n            1   no such room\n"),
        "{}",
        ended.stdout
    );
}

#[test]
fn help_teaches() {
    let ended = Bench::new().run(&["--help"], "");
    assert_eq!(ended.code, Some(0));
    for words in [
        "outbox",
        "inbox",
        "killed",
        "Exit codes",
        r#"{"command":"join_meeting","room":"r-1","user":"ada"}"#,
        "--database <FILE|URL>",
        "--broker <URL>",
        "--features postgres,kafka",
        "--fresh",
        "--redeliver-every <N>",
        "--timeout <SECONDS>",
        "--json",
        "[default: quickstart.sqlite]",
        "standard input",
    ] {
        assert!(ended.stdout.contains(words), "{words:?} is not in\n{}", ended.stdout);
    }
}

#[test]
fn wrong_arguments() {
    let bench = Bench::new();
    for url in [":memory:", "sqlite://", "kafka://localhost:9092", "oracle://localhost/rooms"] {
        bench.run(&["--database", url], "").assert_refused(&[url, "give it an SQLite file"]);
    }
    for url in ["nats://localhost", "localhost"] {
        bench.run(&["--broker", url], "").assert_refused(&["`kafka://`", "`amqp://`"]);
    }
    bench.run(&["--redeliver-every", "often"], "").assert_refused(&["--redeliver-every <N>"]);
    for timeout in ["--timeout=0", "--timeout=-1", "--timeout=NaN", "--timeout=1e99", "--timeout=soon"] {
        bench.run(&[timeout], "").assert_refused(&["--timeout <SECONDS>", "not a number of seconds"]);
    }
    bench.run(&["--colour"], "").assert_refused(&["--colour"]);
    assert!(!bench.path("quickstart.sqlite").exists(), "nothing was written");
}
