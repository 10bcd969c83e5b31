//! Relays in processes of their own: the program `cqrs`.

use std::process::Stdio;
use std::time::Duration;

use cqrs::{Error, Result};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// A hang, and nothing else, takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// From which database to which broker.
pub(crate) struct Road {
    pub(crate) database: String,
    pub(crate) broker: String,
}

/// A relay that has said that it is ready.
pub(crate) struct Relay {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Road {
    pub(crate) async fn relay(&self, name: &str) -> Result<Relay> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_cqrs"))
            .args(["relay", "--database", &self.database, "--broker", &self.broker, "--name", name])
            // The others take over from one that was killed after a second.
            .args(["--lease", "1s", "--lease-margin", "200ms", "--heartbeat-interval", "200ms"])
            .args(["--publish-timeout", "800ms", "--poll-interval", "50ms", "--max-backoff", "1s"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // What is lost with a broker that is killed is no news here.
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "error".to_owned()))
            .kill_on_drop(true)
            .spawn()?;
        let output = process.stdout.take().ok_or_else(|| Error::handler("the relay has no output"))?;
        let mut relay = Relay { process, output: BufReader::new(output).lines() };
        relay.says("ready: ").await?;
        Ok(relay)
    }
}

impl Relay {
    async fn says(&mut self, wanted: &str) -> Result<String> {
        match timeout(PATIENCE, self.output.next_line()).await {
            Ok(Ok(Some(line))) if line.starts_with(wanted) => Ok(line),
            other => Err(Error::handler(format!("the relay was to say `{wanted}`, and said {other:?}"))),
        }
    }

    /// With SIGKILL.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// With SIGTERM; gives its last words.
    pub(crate) async fn stop(mut self) -> Result<String> {
        let id = self.process.id().ok_or_else(|| Error::handler("the relay had ended by itself"))?;
        let told = Command::new("kill").args(["-s", "TERM", &id.to_string()]).status().await?;
        assert!(told.success());
        let last_words = self.says("stopped: ").await?;
        let ended = timeout(PATIENCE, self.process.wait()).await.map_err(Error::from)??;
        assert!(ended.success(), "{ended}");
        Ok(last_words)
    }
}
