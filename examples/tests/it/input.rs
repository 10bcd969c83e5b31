//! Where commands come from, and what is no command.

use serde_json::json;

use crate::bench::{Bench, arg};

const OPEN: &str = r#"{"command":"open_room","room":"r-1","title":"Planning","seats":2}"#;

#[test]
fn what_is_no_command_is_refused_with_its_line() {
    let mut input = Vec::new();
    let mut expected = Vec::new();
    for (line, refused) in [
        (OPEN.as_bytes().to_vec(), None),
        (b"\n".repeat(2), None),
        (b"   \r".to_vec(), None),
        ([OPEN.replace("r-1", "r-2").as_bytes(), b"\r"].concat(), None),
        (b"{".to_vec(), Some("not JSON: EOF while parsing an object (column 1)")),
        (b"[\"close_room\",\"r-1\"]".to_vec(), Some("not a JSON object")),
        (b"{\"command\":\"close_room\",\"room\":\"\xff\"}".to_vec(), Some("not UTF-8")),
        ([OPEN.as_bytes(), b" x"].concat(), Some("not JSON: trailing characters (column 67)")),
        (
            b"{\"command\":\"drop_table\"}".to_vec(),
            Some(
                "unknown variant `drop_table`, expected one of `open_room`, `join_meeting`, `leave_meeting`, `close_room`, `read_meeting`",
            ),
        ),
        (b"{\"command\":\"close_room\"}".to_vec(), Some("missing field `room`")),
        (OPEN.replace('2', "\"two\"").into_bytes(), Some("invalid type: string \"two\", expected u32")),
        (
            [b"{\"command\":\"close_room\",\"room\":\"r-1\"}", " ".repeat(65_536 - 37).as_bytes()].concat(),
            None,
        ),
        (" ".repeat(65_537).into_bytes(), Some("longer than 64 KiB")),
        ("x".repeat(5_000_000).into_bytes(), Some("longer than 64 KiB")),
    ] {
        let number = input.split(|byte| *byte == b'\n').count();
        expected
            .extend(refused.map(|reason| json!({ "line": number, "kind": "malformed", "reason": reason })));
        input.extend(line);
        input.push(b'\n');
    }
    // The last line does not end.
    input.extend(br#"{"command":"read_meeting","room":"r-2"}"#);

    let report = Bench::new().report(&["-"], input);
    assert_eq!(report["refusals"], json!(expected));
    assert_eq!(report["commands"]["done"], 3);
    assert_eq!(report["commands"]["queries_answered"], 1);
    assert_eq!(report["input"], "standard input");
}

#[test]
fn nothing_to_do_is_fine() {
    let bench = Bench::new();
    for input in ["", "\n", "\n \n\t"] {
        let report = bench.report(&["-"], input);
        assert_eq!(report["commands"]["done"], 0);
        assert_eq!(report["latency"], json!(null));
    }
}

#[test]
fn what_cannot_be_read_is_told_before_anything_begins() {
    let bench = Bench::new();
    bench.run(&["missing.jsonl"], "").assert_refused(&["cannot read missing.jsonl", "No such file"]);
    bench.run(&[arg(&bench.path("."))], "").assert_refused(&["cannot read", "it is a folder"]);
    assert!(!bench.path("quickstart.sqlite").exists(), "nothing was written");
}

#[test]
fn domain_errors_are_refusals() {
    let join = |user: &str| format!(r#"{{"command":"join_meeting","room":"r-1","user":"{user}"}}"#);
    let input = [
        &join("ada"),
        OPEN,
        OPEN,
        &join("ada"),
        &join("ada"),
        &join("alan"),
        &join("grace"),
        &join(""),
        r#"{"command":"leave_meeting","room":"r-1","user":"grace"}"#,
        r#"{"command":"close_room","room":"r-1"}"#,
        &join("grace"),
        r#"{"command":"read_meeting","room":"r-1"}"#,
        r#"{"command":"open_room","room":"r-2","title":"Nobody","seats":0}"#,
    ];
    let report = Bench::new().report(&["-"], input.join("\n"));
    let refusals = report["refusals"].as_array().unwrap();
    let refusals: Vec<_> = refusals.iter().map(|refusal| json!([refusal["line"], refusal["kind"]])).collect();
    assert_eq!(
        json!(refusals),
        json!([
            [1, "no such room"],
            [3, "already opened"],
            [5, "already joined"],
            [7, "full"],
            [8, "invalid"],
            [9, "not joined"],
            [11, "closed"],
            [12, "closed"],
            [13, "invalid"],
        ])
    );
    assert_eq!(report["state"], json!({ "rooms": 1, "open_rooms": 0, "participants": 0 }));
}
