//! What the tests share: a folder for the databases, and the program.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use serde_json::Value;
use tempfile::TempDir;

/// Cargo builds examples with the tests, and puts them beside the folder of the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.set_file_name("examples");
    path.push(format!("quickstart{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is not built: `cargo build --example quickstart`", path.display());
    path
}

/// A folder with the databases of one test.
pub(crate) struct Bench {
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).current_dir(self.folder.path()).env_remove("RUST_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str], input: impl AsRef<[u8]>) -> Ended {
        let mut child = self.command(args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.as_ref().to_owned();
        // It may well end without reading what it was given.
        let writer = thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Ended::from(output)
    }

    /// Runs it with `--json` to its good end.
    pub(crate) fn report(&self, args: &[&str], input: impl AsRef<[u8]>) -> Value {
        let ended = self.run(&[args, &["--json"]].concat(), input);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        serde_json::from_str(&ended.stdout).unwrap()
    }

    /// Starts it and leaves it running.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut child = self.command(args).spawn().unwrap();
        let stdin = child.stdin.take();
        Running { child, stdin }
    }

    /// Starts it with these lines on standard input, waits until they are executed, and leaves it waiting for more.
    pub(crate) fn start_with(&self, args: &[&str], lines: &str) -> Running {
        self.start_counted(args, lines, || self.executed())
    }

    /// The same, with a count of the lines in another journal than that of the default database.
    pub(crate) fn start_counted(&self, args: &[&str], lines: &str, executed: impl Fn() -> i64) -> Running {
        let mut running = self.start(&[&["-"], args].concat());
        running.feed(lines);
        running.wait_until(|| executed() == i64::try_from(lines.lines().count()).unwrap());
        running
    }

    /// An unfinished run of these lines.
    pub(crate) fn kill_after(&self, lines: &str) {
        self.start_with(&[], lines).kill();
    }

    /// How many lines are in the journal.
    pub(crate) fn executed(&self) -> i64 {
        self.count("quickstart.sqlite", "journal")
    }

    /// How many rows a table has; none, while it is not there.
    pub(crate) fn count(&self, file: &str, table: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Count {
            #[diesel(sql_type = BigInt)]
            count: i64,
        }
        let file = self.path(file);
        if !file.exists() {
            return 0;
        }
        let mut conn = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
        // There is no table yet, or it is being written.
        let count = diesel::sql_query(format!("SELECT count(*) AS count FROM {table}"));
        count.get_result::<Count>(&mut conn).map_or(0, |count| count.count)
    }

    /// Runs SQL on one of the files.
    pub(crate) fn sql(&self, file: &str, statements: &str) {
        use diesel::connection::SimpleConnection;
        let mut conn = SqliteConnection::establish(self.path(file).to_str().unwrap()).unwrap();
        conn.batch_execute(statements).unwrap();
    }
}

/// A process.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Running {
    /// Gives it lines.
    pub(crate) fn feed(&mut self, lines: &str) {
        self.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
    }

    /// Waits for something that this process is to bring about.
    pub(crate) fn wait_until(&mut self, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            // Only so that a failure does not hang.
            assert!(began.elapsed() < Duration::from_secs(120), "it does not come that far");
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut said = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("it ended before its time, with {status}: {said}");
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL; whether it was alive.
    pub(crate) fn kill(mut self) -> bool {
        let alive = self.child.try_wait().unwrap().is_none();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        alive
    }

    /// Sends a signal by its name and waits for the end.
    #[cfg(unix)]
    pub(crate) fn signal(self, name: &str) -> Ended {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
        let ended = Ended::from(self.child.wait_with_output().unwrap());
        drop(self.stdin);
        ended
    }
}

/// What a process left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ended {
    /// It was refused, and says this.
    #[track_caller]
    pub(crate) fn assert_refused(&self, words: &[&str]) {
        assert_eq!(self.code, Some(2), "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {}", self.stderr);
        }
    }
}

/// Lines of commands: rooms that open and close, users that come and go, and what cannot be.
pub(crate) fn commands(count: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % limit
    };
    let mut lines = String::new();
    for line in 0..count as u64 {
        let newest = line / 20;
        let room = newest.saturating_sub(below(6));
        let user = below(12);
        lines += &match (line % 20, below(20)) {
            (0, _) => {
                format!(r#"{{"command":"open_room","room":"r-{newest}","title":"Planning","seats":8}}"#)
            }
            (_, 0..13) => format!(r#"{{"command":"join_meeting","room":"r-{room}","user":"u-{user}"}}"#),
            (_, 13..17) => format!(r#"{{"command":"leave_meeting","room":"r-{room}","user":"u-{user}"}}"#),
            (_, 17) if newest >= 5 => format!(r#"{{"command":"close_room","room":"r-{}"}}"#, newest - 5),
            (_, 17 | 18) => format!(r#"{{"command":"read_meeting","room":"r-{room}"}}"#),
            _ => r#"{"command":"join_meeting","#.to_owned(),
        };
        lines.push('\n');
    }
    lines
}

/// What of a report depends on the input alone.
pub(crate) fn totals(report: &Value) -> Value {
    let mut totals = report.clone();
    let fields = totals.as_object_mut().unwrap();
    for field in ["input", "latency", "seconds"] {
        fields.remove(field).unwrap();
    }
    fields["commands"].as_object_mut().unwrap().remove("executed_earlier").unwrap();
    fields["events"].as_object_mut().unwrap().remove("duplicates_dropped").unwrap();
    totals
}

/// Arguments as Rust wants them for a path.
pub(crate) fn arg(path: &(impl AsRef<OsStr> + ?Sized)) -> &str {
    path.as_ref().to_str().unwrap()
}
