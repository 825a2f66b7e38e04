//! The benchmarks: each prints rates, and ratios of one run.

mod capture;
mod kernel;
mod latency;
mod prefilter;
mod reasons;
mod ring;
mod score;
mod traffic;
mod wire;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures FlowMeter on this machine.
#[derive(Parser)]
#[command(name = "flowmeter-bench", bin_name = "cargo xtask bench", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reading, parsing and metering of a capture that is generated first.
    ///
    /// Two thirds of the flows are TCP connections with handshake and close, the others UDP; they begin at random over ten
    /// minutes and have ten packets in the mean, of random lengths, at random gaps of 0.2 s in the mean.
    Capture(capture::Options),
    /// What a packet costs in the kernel, beside the plain ways to meter flows there. Needs root.
    ///
    /// Each program is run by the kernel itself (BPF_PROG_TEST_RUN) on one CPU, on the smallest TCP packet, which is made
    /// the next flow's before. That is the `empty` program; what the others cost is the time above it.
    Kernel(kernel::Options),
    /// How long the pre-filter takes to act on a flow, and what that costs a packet. Needs root.
    ///
    /// Beside a flood of new flows, each of enough packets to be scored, single flows are sent whose packets go on after the
    /// one that decides; the first that does not arrive is the first that the kernel acted on.
    Prefilter(prefilter::Options),
    /// Packets a second over a cable, and what the agent spends on each. Needs root, and two CPUs.
    ///
    /// A generator on the first CPU sends the smallest TCP packets as fast as they are taken; native XDP runs on the
    /// second, and so does the agent. Beside FlowMeter stand a program that does nothing, and one that sends an event of
    /// each packet to a reader, which adds it to its flow.
    Wire(wire::Options),
    /// Flows scored a second on one core, from finished counters to verdict and reasons, and what each part costs.
    Score(score::Options),
    /// From the packet of a flow's checkpoint to its verdict in the log, while many flows come and end. Needs root.
    Latency(latency::Options),
    /// How far the reasons of malicious verdicts agree with Shapley's values.
    Reasons(reasons::Options),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Capture(options) => capture::run(&options),
        Command::Kernel(options) => kernel::run(&options),
        Command::Prefilter(options) => prefilter::run(&options),
        Command::Wire(options) => wire::run(&options),
        Command::Score(options) => score::run(&options),
        Command::Latency(options) => latency::run(&options),
        Command::Reasons(options) => reasons::run(&options),
    }
}
