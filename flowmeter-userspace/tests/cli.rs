//! Promise: what the command line says is what was decided to be said: help, version, and each refusal, word for word.
//!
//! That this package has a test of its binary also makes a plain `cargo test` build it, for the tests of the whole.

/// The cases are commands with their output; `TRYCMD=overwrite cargo test --test cli` writes down what is said now.
#[test]
fn help_version_and_refusals() {
    trycmd::TestCases::new().case("tests/cli/*.trycmd");
}
