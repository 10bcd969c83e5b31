//! The first command on a new machine compiles no broker's client, and no C++.

use std::path::Path;
use std::process::Command;

/// What wants librdkafka, a C++ compiler, CMake or a TLS library of the system.
const UNWANTED: [&str; 8] =
    ["rdkafka", "rdkafka-sys", "lapin", "cmake", "cxx", "cxx-build", "link-cplusplus", "openssl-sys"];

/// The names of the packages in what `cargo tree` prints.
fn tree(args: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--prefix", "none", "--format", "{p}"])
        .args(args)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = output.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    for expected in ["cqrs", "cqrs-outbox-diesel", "libsqlite3-sys"] {
        assert!(names.iter().any(|name| name == expected), "this is not the tree of the example:\n{output}");
    }
    names
}

#[track_caller]
fn assert_lean(args: &[&str]) {
    let names = tree(args);
    let unwanted: Vec<_> = names.iter().filter(|name| UNWANTED.contains(&name.as_str())).collect();
    assert!(unwanted.is_empty(), "`cargo tree {}` has {unwanted:?}", args.join(" "));
}

#[test]
fn of_the_example() {
    assert_lean(&["-p", "cqrs-examples", "-e", "normal,build,dev"]);
}

/// `cargo run --example quickstart` unifies the features of all default members, so they count together.
#[test]
fn of_the_default_members_with_their_features() {
    assert_lean(&["-e", "features,normal,build,dev"]);
}

/// The row and the SQL are for users of other drivers.
#[test]
fn an_outbox_alone_has_no_driver() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--prefix",
            "none",
            "--edges",
            "normal,build",
            "--package",
            "cqrs-outbox",
        ])
        .args(["--format", "{p}"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = output.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names.first(), Some(&"cqrs-outbox"));
    for driver in ["diesel", "postgres", "mysql", "sqlite"] {
        assert!(!names.iter().any(|name| name.contains(driver)), "{driver} in {names:?}");
    }
}
