//! What the compiler says to users of the builder. It stands in this crate because none of its dependencies is built by
//! a C compiler, and the cases are built with all of them. `TRYBUILD=overwrite` writes the expectations anew.

#[test]
fn compile_errors_say_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
