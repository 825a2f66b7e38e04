//! What FlowMeter promises on a kernel. Each test makes namespaces of its own; none touches the machine's interfaces.
//!
//! One module a promise. `cargo xtask test` builds the release binary and runs them as root; one module alone:
//! `cargo test --release --package flowmeter-system-tests prefilter::`.
//!
//! | promise | module | needs beside root |
//! |---|---|---|
//! | kernel programs and capture path agree to the last bit | [`parity`] | |
//! | the same packets give the same flows, live or from a capture | [`replay_equals_capture`] | |
//! | flows of ordinary programs have the counts that a packet socket sees | [`live_flows`] | curl, iperf3, nc, python3 |
//! | live tables are whole when the agent is stopped | [`live_tables`] | |
//! | the shared table loses no packet and no flow | [`table_stress`] | two CPUs, alone |
//! | a flood loses nothing silently and keeps to the printed memory | [`flood`] | alone |
//! | memory is flat | [`soak`] | alone |
//! | flows end by the clock, with no traffic needed | [`quiet_expiry`] | |
//! | interfaces may go and come back, and a blind inspector is noticed | [`interfaces`] | ethtool |
//! | the pre-filter passes and drops what it says, and fails open | [`prefilter`] | tcpdump |
//! | who knows how it works can neither blind the table nor hide a flow | [`hostile`] | |
//! | the agent survives restart, rotation, a full disk, a lost interface | [`operations`] | |
//! | no restart, rotation, full disk or hanging reader destroys the log | [`log_survives`] | |
//! | metrics equal the log, and a stuck pipeline is not healthy | [`service`] | |
//! | SIGHUP loads a model without losing a flow | [`reload`] | |
//! | SIGINT and SIGTERM flush, detach, and end with 0 | [`shutdown`] | |
//! | `doctor` finds by name what `live` would stumble over | [`doctor`] | strace |
//! | what cannot work is refused in one sentence | [`refusals`] | |
//! | older verifiers have room | [`verifier`] | |
//!
//! "Alone": the test measures time or memory, or keeps all CPUs busy, and holds [`harness::machine::alone`]; the others share
//! the machine by [`harness::machine::shared`], which starting an agent or loading programs does for them.
//! What is known not to hold yet is `#[ignore]`d with the reason; `cargo test ... -- --ignored` tries them, and whoever mends the
//! product takes the mark away.
//!
//! A test that lacks what it needs says `NOT RUN` and passes; with `CI=true` it fails.

mod doctor;
mod flood;
mod hostile;
mod interfaces;
mod live_flows;
mod live_tables;
mod log_survives;
mod operations;
mod parity;
mod prefilter;
mod quiet_expiry;
mod refusals;
mod reload;
mod replay_equals_capture;
mod service;
mod shutdown;
mod soak;
mod table_stress;
mod verifier;
