//! Promise: the programs load on kernels much older than this one, whose verifiers walk more ways through them.
//!
//! A verifier gives up after a million instructions walked. How many it walks depends on its age: where Linux 6.18 walks
//! 480,000 of one program, 6.1 gives up; where it walks 215,000, 6.1 needs less than a third of what it may. An old
//! kernel is not at hand in a test; the bound keeps the programs where they were when they were tried on one.

use anyhow::{Context, Result, ensure};
use harness::agent::{Agent, Signal};
use harness::machine;
use harness::netns::{Chatter, Namespace, Offload};

/// Instructions that this kernel's verifier may walk in one program.
const MAX: u32 = 300_000;

#[test]
fn the_programs_leave_old_verifiers_room() -> Result<()> {
    let Some(_machine) = machine::shared("what the kernel's verifier says of the programs") else {
        return Ok(());
    };
    walk(&[], &["flowmeter_ingr", "flowmeter_egre"])?;
    walk(&["--mode", "block", "--yes-drop-traffic"], &["filter_ingress", "filter_egress"])?;
    walk(&["--mode", "mirror", "--inspector", "lo"], &["flowmeter_ingr", "filter_egress", "mirror_ingress"])
}

/// Runs the agent with further words, and looks at the programs whose names begin so.
fn walk(words: &[&str], names: &[&str]) -> Result<()> {
    let (place, peer) = (Namespace::new("verifier")?, Namespace::new("verifier-peer")?);
    place.join("v0", &peer, "v1", Chatter::None, Offload::Usual)?;
    let folder = tempfile::tempdir()?;
    let agent =
        Agent::start(&place, &["v0"], &folder.path().join("log"), &[&["--no-model"], words].concat())?;
    let mut walked = Vec::new();
    for program in aya::programs::loaded_programs() {
        let program = program.context("reading the kernel's list of programs")?;
        let name = program.name_as_str().unwrap_or_default().to_owned();
        if names.iter().any(|begin| name.starts_with(begin)) {
            let count = program.verified_instruction_count().context("the kernel does not say")?;
            walked.push((name, count));
        }
    }
    agent.stop(Signal::Interrupt)?.expect_clean()?;
    println!("{walked:?}");
    for way in names {
        let of_it: Vec<_> = walked.iter().filter(|(name, _)| name.starts_with(way)).collect();
        ensure!(!of_it.is_empty(), "no program {way}… is loaded: {walked:?}");
        for (name, count) in of_it {
            ensure!(*count <= MAX, "the verifier walked {count} instructions of {name}, more than {MAX}");
        }
    }
    Ok(())
}
