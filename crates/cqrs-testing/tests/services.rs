//! A private server, killed and started again; and what becomes of tests that find none.
#![allow(clippy::unwrap_used)] // the helpers are tests, too

use std::io::{Read, Write};
use std::net::TcpStream;

use cqrs_testing::services::{Server, Service, trial_with_own};
use libtest_mimic::{Arguments, Failed};

fn main() -> std::process::ExitCode {
    // The cheapest of them. What stands in a database after a kill is for the tests of the stores.
    let trials = vec![trial_with_own(
        &[],
        &[Service::Amqp],
        "a_server_of_its_own_comes_back_where_it_was",
        comes_back_where_it_was,
    )];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn comes_back_where_it_was() -> Result<(), Failed> {
    let server = Server::start(Service::Amqp)?;
    let address = server.url().rsplit_once('@').unwrap().1.to_owned();
    assert!(answers(&address));
    server.kill()?;
    assert!(!answers(&address));
    server.start_again()?;
    assert!(answers(&address));
    server.restart()?;
    assert!(answers(&address));
    let kept = server.keep_logs()?;
    assert!(std::fs::read_to_string(&kept)?.to_lowercase().contains("rabbitmq"), "{kept}");
    std::fs::remove_file(kept)?;
    drop(server);
    assert!(!answers(&address));
    Ok(())
}

/// Whether somebody there speaks AMQP.
fn answers(address: &str) -> bool {
    let Ok(mut connection) = TcpStream::connect(address) else { return false };
    let mut frame = [0];
    connection.write_all(b"AMQP\0\0\x09\x01").is_ok() && connection.read_exact(&mut frame).is_ok()
}
