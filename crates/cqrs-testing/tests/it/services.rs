//! A private server, killed and started again.

use std::io::{Read, Write};
use std::net::TcpStream;

use cqrs_testing::services::{Server, Service, required};

/// The cheapest of them. What stands in a database after a kill is for the tests of the stores.
#[test]
fn a_server_of_its_own_comes_back_where_it_was() {
    let server = match Server::start(Service::Amqp) {
        Ok(server) => server,
        Err(why) if required() => panic!("{why}"),
        Err(why) => {
            eprintln!("not tested: {why}");
            return;
        }
    };
    let address = server.url().rsplit_once('@').unwrap().1.to_owned();
    assert!(answers(&address));
    server.kill().unwrap();
    assert!(!answers(&address));
    server.start_again().unwrap();
    assert!(answers(&address));
    server.restart().unwrap();
    assert!(answers(&address));
    drop(server);
    assert!(!answers(&address));
}

/// Whether somebody there speaks AMQP.
fn answers(address: &str) -> bool {
    let Ok(mut connection) = TcpStream::connect(address) else { return false };
    let mut frame = [0];
    connection.write_all(b"AMQP\0\0\x09\x01").is_ok() && connection.read_exact(&mut frame).is_ok()
}
