//! The compiler's messages that users will meet. After a change of the compiler, look through what
//! `TRYBUILD=overwrite cargo test -p cqrs-core ui` writes, and set the version.

use std::process::Command;

/// The compiler whose words are in `tests/ui`.
const RUSTC: &str = "rustc 1.95.";

#[test]
fn what_is_wrong_is_said_well() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().unwrap().stdout;
    if String::from_utf8_lossy(&version).starts_with(RUSTC) {
        trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
    } else {
        eprintln!("skipped: the expected messages are those of {RUSTC}");
    }
}
