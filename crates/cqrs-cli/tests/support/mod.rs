//! The program `cqrs` as a process.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// A hang, and nothing else, takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, with none of its variables set.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cqrs"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CQRS_")) {
        command.env_remove(name);
    }
    // What is lost with a broker that is killed is no news to a test, unless somebody asks.
    let log = std::env::var("RUST_LOG").unwrap_or_else(|_| "error,lapin=off,librdkafka=off".to_owned());
    command.env("RUST_LOG", log).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A relay in a process of its own.
pub(crate) struct Relay {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    /// What it warns of, if somebody listens.
    warnings: Option<Lines<BufReader<ChildStderr>>>,
}

impl Relay {
    /// Starts one; it may not be ready yet.
    pub(crate) fn spawn(arguments: &[&str]) -> Self {
        let mut command = program();
        command.arg("relay").args(arguments);
        Self::from_command(command)
    }

    /// Starts one as it was put together.
    pub(crate) fn from_command(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = process.stdout.take().unwrap();
        Self { process, output: BufReader::new(output).lines(), warnings: None }
    }

    /// Starts one whose warnings can be waited for.
    pub(crate) fn spawn_warning(arguments: &[&str]) -> Self {
        let mut relay = program();
        relay.arg("relay").args(arguments).env("RUST_LOG", "warn,lapin=off");
        let mut process = relay.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (output, warnings) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        Self {
            process,
            output: BufReader::new(output).lines(),
            warnings: Some(BufReader::new(warnings).lines()),
        }
    }

    /// Waits until it warns of something with all of these in it.
    pub(crate) async fn warns(&mut self, parts: &[&str]) {
        let warnings = self.warnings.as_mut().unwrap();
        let warned = async {
            while let Some(line) = warnings.next_line().await.unwrap() {
                if parts.iter().all(|part| line.contains(part)) {
                    return;
                }
            }
            panic!("the relay ended without a word of {parts:?}");
        };
        timeout(PATIENCE, warned).await.unwrap_or_else(|_| panic!("the relay does not warn of {parts:?}"));
    }

    /// Starts one, and waits until it says that it is ready; gives what it says.
    pub(crate) async fn start(arguments: &[&str]) -> (Self, String) {
        let mut relay = Self::spawn(arguments);
        let ready = relay.is_ready().await;
        (relay, ready)
    }

    /// Waits until it says so; gives what it says.
    pub(crate) async fn is_ready(&mut self) -> String {
        let ready = self.next_line().await;
        assert!(ready.contains("ready"), "{ready}");
        ready
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Sends a signal by its name.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.process.id().expect("the relay had ended by itself").to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().await.unwrap().success());
    }

    /// The next line that it says.
    pub(crate) async fn next_line(&mut self) -> String {
        match timeout(PATIENCE, self.output.next_line()).await {
            Ok(line) => line.unwrap().expect("the relay ended without a word"),
            Err(_) => panic!("the relay says nothing"),
        }
    }

    /// Kills it with SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Stops it with SIGTERM; gives its last words.
    pub(crate) async fn stop(self) -> String {
        self.signal("TERM").await;
        self.ends(0).await
    }

    /// Waits until it ends with that exit code; gives its last words.
    pub(crate) async fn ends(mut self, code: i32) -> String {
        let mut last_words = self.next_line().await;
        while let Some(line) = timeout(PATIENCE, self.output.next_line()).await.expect("it goes on").unwrap()
        {
            last_words = line;
        }
        let ended = timeout(PATIENCE, self.process.wait()).await.expect("the relay does not end").unwrap();
        assert_eq!(ended.code(), Some(code), "{ended}");
        last_words
    }
}
