//! Promise: help, version and refusals of the command line are what was decided, word for word.
//!
//! Each case is a command with what it prints. `[..]` stands for what differs from run to run; a line of the log begins with
//! `[[..] ERROR]`. `TRYCMD=overwrite cargo test --package flowmeter-userspace --test cli` takes over what is printed now; read
//! the difference before you commit it.
//!
//! A package with a test of its binary is built with it, so that a plain `cargo test` builds what `tests/integration` runs.

use flowmeter::model::Runtime;

#[test]
fn help_version_and_refusals() {
    let cases = trycmd::TestCases::new();
    cases.case("tests/cli/*.trycmd");
    // These say something else without the library, and `cargo test` is to pass on a bare machine.
    if Runtime::load(None).is_err() {
        eprintln!("NOT RUN: there is no ONNX Runtime; not shown: refusals of models");
        cases.skip("tests/cli/scoring.trycmd");
    }
}
