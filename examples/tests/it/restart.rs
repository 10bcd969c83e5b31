//! Stopped in the middle, and started again.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;

use serde_json::{Value, json};

use crate::bench::{Bench, Ended, arg, commands, totals};

#[test]
fn killed_again_and_again_it_completes_as_if_it_had_not_been() {
    const LINES: usize = 1_500;
    let input = commands(LINES);
    let undisturbed = Bench::new().report(&["-"], &input);

    let bench = Bench::new();
    let file = bench.path("commands.jsonl");
    fs::write(&file, &input).unwrap();
    let args = [arg(&file), "--redeliver-every", "3"];
    let mut done = 0;
    for part in [5, 3, 2, 1] {
        // Somewhere in the next part; the last time where everything is executed, but perhaps not all has arrived.
        let rest = LINES as u64 - done;
        let next = if part == 1 { rest } else { 1 + RandomState::new().hash_one(part) % (rest / part) };
        let mut running = bench.start(&args);
        running.wait_until(|| bench.executed() as u64 >= done + next);
        let alive = running.kill();
        assert!(alive || part == 1, "it was to be killed before its end");
        done = bench.executed() as u64;
        println!("killed behind line {done}");
    }
    let report = bench.report(&args, "");
    assert_eq!(totals(&report), totals(&undisturbed));
}

#[test]
fn what_an_earlier_process_did_is_not_done_again() {
    let bench = Bench::new();
    let (first, all) = (commands(40), commands(60));
    bench.kill_after(&first);
    let report = bench.report(&["-"], &all);
    assert_eq!(report["commands"]["executed_earlier"], 40);
    assert_eq!(totals(&report), totals(&Bench::new().report(&["-"], &all)));
    let earlier = |report: &Value| report["commands"]["done"].as_i64().unwrap();
    let done_later = earlier(&report) - earlier(&Bench::new().report(&["-"], &first));
    assert_eq!(report["latency"]["events"], done_later, "only events of this process are timed");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_it_and_it_goes_on() {
    let input = commands(30);
    for signal in ["INT", "TERM"] {
        let bench = Bench::new();
        let ended = bench.start_with(&[], &input).signal(signal);
        assert_eq!(ended.code, Some(130), "{ended:?}");
        assert!(ended.stderr.contains("stopped behind line 30 of standard input"), "{ended:?}");
        assert!(ended.stderr.contains("start again with the same input"), "{ended:?}");
        assert_eq!(ended.stdout, "");
        let report = bench.report(&["-"], &input);
        assert_eq!(report["commands"]["executed_earlier"], 30);
    }
}

#[test]
fn other_input_is_refused_until_the_run_is_finished_or_forgotten() {
    let bench = Bench::new();
    let input = commands(30);
    bench.kill_after(&input);
    let refused =
        |ended: Ended| ended.assert_refused(&["unfinished run of other input", "line 30", "--fresh"]);
    refused(bench.run(&["-"], commands(29)));
    refused(bench.run(&["-"], input.replacen("r-0", "r-1", 1)));
    refused(bench.run(&["-"], "\n".to_owned() + &input));
    refused(bench.run(&["-"], ""));
    refused(bench.run(&[], ""));

    let fresh = bench.report(&["--fresh"], "");
    assert_eq!(fresh["commands"]["done"], 327);
    assert_eq!(fresh["commands"]["executed_earlier"], 0);
}

#[test]
fn a_projection_that_does_not_belong_to_the_run_is_refused() {
    let bench = Bench::new();
    let input = commands(30);
    bench.kill_after(&input);
    for ending in ["", "-wal", "-shm"] {
        fs::remove_file(bench.path(&format!("quickstart.projection.sqlite{ending}"))).unwrap();
    }
    bench.run(&["-"], &input).assert_refused(&["does not belong to it", "--fresh"]);
    bench.report(&["-", "--fresh"], &input);
}

#[test]
fn a_projection_that_is_wrong_is_told() {
    let bench = Bench::new();
    let input = commands(30);
    bench.kill_after(&input);
    bench.sql(
        "quickstart.projection.sqlite",
        "INSERT INTO present VALUES ('r-0', 'nobody'); UPDATE rooms SET seats = 9;",
    );
    let ended = bench.run(&["-", "--json"], &input);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["check"]["holds"], false);
    assert_eq!(report["events"]["consumed"], report["events"]["committed"]);
    let differences = report["check"]["differences"].as_array().unwrap();
    for expected in [
        "nobody in room r-0: only in the projection",
        "room r-0 (Planning, 8 seats, open): only in the rooms service",
        "room r-0 (Planning, 9 seats, open): only in the projection",
    ] {
        assert!(differences.contains(&json!(expected)), "{expected:?} is not in {differences:?}");
    }
}

#[test]
fn events_that_cannot_be_handled_wait() {
    let bench = Bench::new();
    let input = commands(30);
    bench.kill_after(&commands(1));
    bench.sql(
        "quickstart.projection.sqlite",
        "CREATE TRIGGER no BEFORE INSERT ON present BEGIN SELECT RAISE(ABORT, 'the disk is made of cheese'); END",
    );
    // Neither a kill nor an orderly end may take them for handled.
    bench.kill_after(&input);
    let ended = bench.run(&["-", "--timeout", "1"], &input);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("nothing has arrived for 1s"), "{ended:?}");
    assert!(ended.stderr.contains("the disk is made of cheese"), "{ended:?}");

    bench.sql("quickstart.projection.sqlite", "DROP TRIGGER no");
    let report = bench.report(&["-"], &input);
    assert_eq!(totals(&report), totals(&Bench::new().report(&["-"], &input)));
}
