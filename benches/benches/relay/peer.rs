//! The peer in the same run: python-cqrs of PyPI, in an environment of its own in the target folder.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::brokers::Broker;
use crate::databases::Database;
use crate::measure::Size;
use crate::relays;
use crate::throughput::Manner;

const PACKAGES: [&str; 3] = ["python-cqrs[kafka,rabbit,sqlalchemy,pydantic]==5.3.0", "asyncpg", "asyncmy"];

const KEYS: u64 = 64;

pub(crate) async fn measure(pairs: &[(Database, Broker)], size: Size) {
    let python = match install() {
        Ok(python) => python,
        Err(error) => {
            println!("python-cqrs is left out: {error}");
            return;
        }
    };
    // It is some hundred times slower.
    let few = (size.events / 50).max(2);
    println!(
        "{} events of 300 bytes with {KEYS} keys, of the peer {few}; medians of {} runs\n",
        size.events, size.runs
    );
    println!("| from, to | relay, events/s | python-cqrs 5.3, events/s | times |");
    println!("|---|---:|---:|---:|");
    // It knows no SQLite.
    for (database, broker) in pairs.iter().filter(|(database, _)| database.shares()) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..size.runs {
            let site = database.site().await;
            ours.push(relays::drain(database, &site, broker, Manner::ALONE, KEYS, size.events).await.rate);
            theirs.push(drain(&python, site.url(), broker.url(), few));
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "| {} to {} | {ours:.0} | {theirs:.0} | {:.0} |",
            database.name(),
            broker.name(),
            ours / theirs
        );
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn install() -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-cqrs-5.3.0");
    let (python, done) = (home.join("bin/python"), home.join("done"));
    if !done.exists() {
        run("python3", [OsStr::new("-m"), OsStr::new("venv"), home.as_os_str()])?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(&python, install.into_iter().chain(PACKAGES))?;
        std::fs::write(done, "").map_err(|error| error.to_string())?;
    }
    Ok(python)
}

fn drain(python: &Path, database: &str, broker: &str, events: u64) -> f64 {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/python_cqrs.py");
    let events = events.to_string();
    let arguments = [database, broker, &events].map(OsStr::new);
    let printed = run(python, [script.as_os_str()].into_iter().chain(arguments)).unwrap();
    printed.trim().parse().unwrap_or_else(|_| panic!("python-cqrs says {printed:?}"))
}

fn run<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String, String> {
    let mut command = Command::new(program);
    let output = command.args(arguments).output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} ended with {}: {}", output.status, said.trim_end()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
