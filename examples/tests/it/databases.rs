//! Files that are not ours.

use std::fs::{self, File};

use crate::bench::Bench;

#[test]
fn a_database_of_something_else_is_left_as_it_is() {
    for name in ["quickstart.sqlite", "quickstart.projection.sqlite"] {
        let bench = Bench::new();
        bench.sql(name, "CREATE TABLE savings (amount INTEGER); INSERT INTO savings VALUES (5)");
        let before = fs::read(bench.path(name)).unwrap();
        bench.run(&["--fresh"], "").assert_refused(&[name, "is a database of something else", "--database"]);
        assert!(fs::read(bench.path(name)).unwrap() == before, "{name} was changed");
        assert_eq!(fs::read_dir(bench.path(".")).unwrap().count(), 1, "nothing was written beside it");
    }
}

#[test]
fn a_projection_is_not_taken_for_the_rooms() {
    let bench = Bench::new();
    bench.report(&["-"], "");
    let ended = bench.run(&["-", "--fresh", "--database", "quickstart.projection.sqlite"], "");
    ended.assert_refused(&["is a database of something else"]);
}

#[test]
fn what_is_no_database_is_left_as_it_is() {
    let bench = Bench::new();
    let letter = "Dear Ada,\n".repeat(100);
    fs::write(bench.path("letter.txt"), &letter).unwrap();
    bench.run(&["--database", "letter.txt"], "").assert_refused(&["letter.txt", "not a database"]);
    assert_eq!(fs::read_to_string(bench.path("letter.txt")).unwrap(), letter);
    fs::create_dir(bench.path("folder")).unwrap();
    bench.run(&["--database", "folder"], "").assert_refused(&["folder is not a file"]);
    bench.run(&["--database", "missing/rooms.sqlite"], "").assert_refused(&["there is no folder", "missing"]);
}

#[test]
fn an_empty_file_will_do() {
    let bench = Bench::new();
    File::create(bench.path("rooms.db")).unwrap();
    bench.report(&["-", "--database", "rooms.db"], "");
    assert!(bench.path("rooms.projection.db").exists());
}

#[test]
fn one_process_at_a_time() {
    let bench = Bench::new();
    let running = bench.start_with(&[], "?\n");
    bench.run(&["--fresh"], "").assert_refused(&["another process works with"]);
    assert!(running.kill());
}
