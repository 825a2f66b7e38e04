//! Promise: with `--mode` the inspector gets every packet of flows that are not known to be benign, and of those that are
//! none from the verdict on; `block` drops what is malicious and nothing else; and if the agent dies, hangs or cannot
//! score, every packet passes within two seconds.
//!
//! The verdict of a flow is told by its largest packet, see `tests/models/by_size.py`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowmeter::config::{Mode, PrefilterSettings};
use flowmeter::kernel::clock;
use flowmeter::prefilter::Policy;
use flowmeter::prefilter::lists::Rule;
use flowmeter_common::prefilter::listed;
use flowmeter_common::table::state;
use harness::agent::{Agent, Signal};
use harness::frames::{Packet, Transport};
use harness::inspector::{Inspector, numbered};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Frame, Oversized, Pace, Sender};
use harness::row::{number, text};
use harness::test_programs::{Setup, TestPrograms};
use harness::{machine, require_program};
use serde_json::Value;

/// The model that tells verdicts by size.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/by-size.onnx");
/// linux/bpf.h
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// Packets of a flow up to its first verdict.
const FIRST: u64 = 8;
/// Packets of a flow after it.
const REST: u64 = 40;
/// Bytes of packets that make a flow what it is called.
const SIZES: [(&str, usize); 3] = [("benign", 100), ("unknown", 400), ("malicious", 800)];
/// Bytes of a packet at which the model breaks.
const BROKEN: usize = 1300;
/// Flows of each verdict.
const FLOWS: u64 = 5;
/// Numbers of a flow's packets lie together.
const BLOCK: u64 = 10_000;
/// Packets that show what passes.
const ENOUGH: u64 = 1100;
/// Within this time of the agent's end everything passes.
const FAIL_OPEN: Duration = Duration::from_secs(2);

/// A sender, a host that watches, and an inspector behind it.
struct Place {
    // Dropped first: it holds an interface.
    _passes: TestPrograms,
    sends: Namespace,
    watches: Namespace,
    inspects: Namespace,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        let names = ["sends", "watches", "inspects"];
        let [sends, watches, inspects] = names.map(Namespace::new);
        let (sends, watches, inspects) = (sends?, watches?, inspects?);
        sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
        watches.join("ids0", &inspects, "tap0", Chatter::None, Offload::Off)?;
        // A veth takes redirected packets only if its peer has a program, too, or GRO.
        let mut passes = TestPrograms::load(&Setup { programs: &["test_pass"], ..Setup::default() })?;
        inspects.run(|| passes.attach("test_pass", "tap0"))??;
        Ok(Self { _passes: passes, sends, watches, inspects, folder: tempfile::tempdir()? })
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn agent(&self, words: &[&str]) -> Result<Agent> {
        let words = [&["--model", MODEL, "--stats-interval", "200ms"], words].concat();
        Agent::start(&self.watches, &["in"], &self.file("log"), &words)
    }

    /// Captures at the inspector, at the host, and at the far end of what the host sends.
    fn captures(&self) -> Result<[Inspector; 3]> {
        Ok([
            Inspector::start(&self.inspects, "tap0", true, &self.file("inspector.pcap"))?,
            Inspector::start(&self.watches, "in", true, &self.file("host.pcap"))?,
            Inspector::start(&self.sends, "out", true, &self.file("peer.pcap"))?,
        ])
    }

    fn arrive(&self, frames: &[Frame]) -> Result<()> {
        send(&self.sends, "out", frames)
    }

    /// Waits until the host has received all that was sent.
    fn settle(&self) -> Result<()> {
        self.watches.wait_quiet("in")
    }

    /// What is dropped on its way out is told to who sends it.
    fn leave(&self, frames: &[Frame]) -> Result<()> {
        self.watches.run(|| {
            let sender = Sender::open("in")?;
            frames.iter().try_for_each(|frame| sender.offer(&frame.data).map(drop))
        })?
    }
}

fn send(namespace: &Namespace, interface: &str, frames: &[Frame]) -> Result<()> {
    let stop = AtomicBool::new(false);
    namespace.run(|| Sender::open(interface)?.send(frames, Pace::Unpaced, Oversized::Refuse, &stop))??;
    Ok(())
}

/// The modes' words.
fn words(mode: &str) -> Vec<&str> {
    match mode {
        "mirror" | "divert" => vec!["--mode", mode, "--inspector", "ids0"],
        "block" => vec!["--mode", "block", "--yes-drop-traffic"],
        other => vec!["--mode", other],
    }
}

/// Packet `n` of flow `flow`, which has packets of `size` bytes; from the host if it is to leave.
fn packet(flow: u64, size: usize, n: u64, leaves: bool) -> Frame {
    let client = format!("192.0.2.{}", flow + 1);
    let (there, here) = ((client.as_str(), 40_000), ("198.51.100.1", 9999));
    let (from, to) = if leaves { (here, there) } else { (there, here) };
    numbered(from, to, size, flow * BLOCK + n)
}

/// Flows by number, with the name of their verdict and the size of their packets.
fn flows() -> impl Iterator<Item = (u64, &'static str, usize)> {
    (0..FLOWS * 3).map(|flow| {
        let (name, size) = SIZES[flow as usize % 3];
        (flow, name, size)
    })
}

/// The first packets of all flows, up to their verdicts.
fn firsts() -> Vec<Frame> {
    (0..FIRST).flat_map(|n| flows().map(move |(flow, _, size)| packet(flow, size, n, false))).collect()
}

fn wait_for_verdicts(agent: &Agent) -> Result<()> {
    agent.wait_for((FLOWS * 3) as usize, |row| row["event"] == "verdict")
}

/// Numbers of packets, of flows with these verdicts.
fn numbers(verdicts: &[&str], which: std::ops::Range<u64>, every: u64, from: u64) -> BTreeSet<u64> {
    flows()
        .filter(|(_, name, _)| verdicts.contains(name))
        .flat_map(|(flow, ..)| which.clone().filter(|n| n % every == from).map(move |n| flow * BLOCK + n))
        .collect()
}

const ALL: &[&str] = &["benign", "unknown", "malicious"];
const SUSPECT: &[&str] = &["unknown", "malicious"];

/// Benign, unknown and malicious flows through a mode, each with packets both ways after its verdict (if anything leaves);
/// returns what the inspector, the host and the far end received, and the last `stats`.
fn mixed(mode: &str, further: &[&str]) -> Result<([BTreeSet<u64>; 3], Value)> {
    let place = Place::new()?;
    let agent = place.agent(&[&words(mode)[..], further].concat())?;
    let captures = place.captures()?;
    place.arrive(&firsts())?;
    wait_for_verdicts(&agent)?;
    let rest = FIRST..FIRST + REST;
    for n in rest {
        let leaves = n % 2 == 1 && mode != "divert";
        let frames: Vec<Frame> = flows().map(|(flow, _, size)| packet(flow, size, n, leaves)).collect();
        if leaves { place.leave(&frames)? } else { place.arrive(&frames)? }
    }
    place.settle()?;
    let outcome = agent.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;
    let stats = outcome.stats()?.clone();
    let mut received = captures.into_iter().map(Inspector::finish);
    let mut next = || received.next().context("three captures")?;
    Ok(([next()?, next()?, next()?], stats["interfaces"][0].clone()))
}

fn ready(what: &str) -> Option<machine::Machine> {
    require_program("tcpdump").then(|| machine::shared(what)).flatten()
}

fn same(what: &str, found: &BTreeSet<u64>, wanted: &BTreeSet<u64>) -> Result<()> {
    let missing: Vec<_> = wanted.difference(found).take(10).collect();
    let more: Vec<_> = found.difference(wanted).take(10).collect();
    ensure!(
        found == wanted,
        "{what}: {} packets, not {}; missing {missing:?}, more {more:?}",
        found.len(),
        wanted.len()
    );
    Ok(())
}

fn union(a: BTreeSet<u64>, b: BTreeSet<u64>) -> BTreeSet<u64> {
    a.union(&b).copied().collect()
}

/// Packets and bytes of an outcome.
fn tally(account: &Value, outcome: &str) -> Result<u64> {
    number(&account["prefilter"][outcome], "packets")
}

const END: u64 = FIRST + REST;

#[test]
fn watch_passes_all() -> Result<()> {
    let Some(_machine) = ready("watch passes all") else {
        return Ok(());
    };
    let ([inspector, host, peer], account) = mixed("watch", &[])?;
    same("inspector", &inspector, &BTreeSet::new())?;
    same("host", &host, &union(numbers(ALL, 0..FIRST, 1, 0), numbers(ALL, FIRST..END, 2, 0)))?;
    same("peer", &peer, &numbers(ALL, FIRST..END, 2, 1))?;
    ensure!(account["prefilter"].is_null(), "{account}");
    Ok(())
}

#[test]
fn mirror_copies_what_is_not_benign() -> Result<()> {
    let Some(_machine) = ready("mirror copies") else {
        return Ok(());
    };
    let ([inspector, host, peer], account) = mixed("mirror", &[])?;
    same("host", &host, &union(numbers(ALL, 0..FIRST, 1, 0), numbers(ALL, FIRST..END, 2, 0)))?;
    same("peer", &peer, &numbers(ALL, FIRST..END, 2, 1))?;
    let wanted = union(numbers(ALL, 0..FIRST, 1, 0), numbers(SUSPECT, FIRST..END, 1, 0));
    same("inspector", &inspector, &wanted)?;
    ensure!(tally(&account, "cloned")? == wanted.len() as u64, "{account}");
    ensure!(tally(&account, "spared")? == FLOWS * REST && account["prefilter"]["between"] == 0, "{account}");
    ensure!(tally(&account, "failed")? == 0 && tally(&account, "dropped")? == 0, "{account}");
    Ok(())
}

#[test]
fn divert_redirects_what_is_not_benign() -> Result<()> {
    let Some(_machine) = ready("divert redirects") else {
        return Ok(());
    };
    let ([inspector, host, _], account) = mixed("divert", &[])?;
    same("host", &host, &BTreeSet::new())?;
    let wanted = union(numbers(ALL, 0..FIRST, 1, 0), numbers(SUSPECT, FIRST..END, 1, 0));
    same("inspector", &inspector, &wanted)?;
    ensure!(tally(&account, "diverted")? == wanted.len() as u64, "{account}");
    ensure!(tally(&account, "spared")? == FLOWS * REST && tally(&account, "passed")? == 0, "{account}");
    let first_stage = &account["prefilter"]["by_cause"]["benign@first"]["dropped"]["packets"];
    ensure!(
        first_stage.as_u64().is_some_and(|n| n >= FLOWS),
        "a verdict begins at its first stage: {account}"
    );
    Ok(())
}

#[test]
fn block_drops_what_is_malicious_and_nothing_else() -> Result<()> {
    let Some(_machine) = ready("block drops") else {
        return Ok(());
    };
    let ([inspector, host, peer], account) = mixed("block", &[])?;
    same("inspector", &inspector, &BTreeSet::new())?;
    let kept = &["benign", "unknown"];
    same("host", &host, &union(numbers(ALL, 0..FIRST, 1, 0), numbers(kept, FIRST..END, 2, 0)))?;
    same("peer", &peer, &numbers(kept, FIRST..END, 2, 1))?;
    ensure!(tally(&account, "dropped")? == FLOWS * REST, "{account}");
    ensure!(
        number(&account, "seen")? == FLOWS * 3 * END,
        "what is dropped is counted all the same: {account}"
    );
    Ok(())
}

/// The table of actions can be another, by verdict and stage.
#[test]
fn the_table_is_the_operators() -> Result<()> {
    let Some(_machine) = ready("overrides") else {
        return Ok(());
    };
    let on = ["--on", "unknown=drop", "--on", "benign@first=inspect", "--on", "malicious=pass"];
    let ([inspector, host, _], account) = mixed("divert", &on)?;
    same("host", &host, &numbers(&["malicious"], FIRST..END, 1, 0))?;
    let spared = tally(&account, "spared")?;
    let all = numbers(ALL, 0..FIRST, 1, 0);
    ensure!(inspector.is_superset(&all), "before the verdict everything goes to the inspector");
    ensure!(
        spared > FLOWS * REST && spared < 2 * FLOWS * REST,
        "benign flows are spared from 16 packets on: {account}"
    );
    Ok(())
}

/// A BPF file system of the test's own, taken off when dropped.
struct PinFolder(tempfile::TempDir);

impl PinFolder {
    fn new() -> Result<Self> {
        let folder = Self(tempfile::tempdir()?);
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.0.path()).status()?;
        ensure!(mounted.success(), "a BPF file system cannot be mounted");
        Ok(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("flowmeter")
    }

    fn word(&self) -> String {
        self.path().to_string_lossy().into_owned()
    }
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Flows whose agent dies, or is told to leave them, go on with the next one: every packet before, between and after is in
/// their counters.
fn adopts(signal: libc::c_int, mode: &str) -> Result<()> {
    const MANY: u64 = 5000;
    let (place, pins) = (Place::new()?, PinFolder::new()?);
    let word = pins.word();
    let words = [&words(mode)[..], &["--pin", &word]].concat();
    let round = || {
        let frames: Vec<Frame> = (0..MANY)
            .map(|flow| {
                let client = format!("10.0.{}.{}", flow / 250, flow % 250 + 1);
                numbered((&client, 40_000), ("198.51.100.1", 9999), 100, flow)
            })
            .collect();
        place.arrive(&frames)
    };
    let first = place.agent(&words)?;
    round()?;
    round()?;
    let refused = place.agent(&words).err().context("two agents with the same pins")?;
    ensure!(format!("{refused:#}").contains("another agent"), "{refused:#}");
    first.signal(signal)?;
    first.wait()?;
    ensure!(place.watches.has_xdp("in")?, "the program stays");
    round()?;
    round()?;
    let other =
        place.agent(&[&words[..], &["--max-flows", "1000"]].concat()).err().context("another table")?;
    ensure!(format!("{other:#}").contains("other settings"), "{other:#}");
    let second = place.agent(&words)?;
    round()?;
    place.settle()?;
    let outcome = second.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;
    let whole = outcome.flows().filter(|row| row["packets"] == 5 && row["dst_port"] == 9999).count() as u64;
    ensure!(whole == MANY, "{whole} of {MANY} flows kept all packets");
    ensure!(!place.watches.has_xdp("in")? && !pins.path().exists(), "Ctrl-C takes everything off");
    Ok(())
}

#[test]
fn flows_outlive_an_agent_that_is_killed() -> Result<()> {
    let Some(_machine) = ready("adoption after kill -9") else {
        return Ok(());
    };
    adopts(libc::SIGKILL, "divert")?;
    adopts(libc::SIGKILL, "mirror")
}

#[test]
fn flows_outlive_an_agent_that_is_told_to_leave() -> Result<()> {
    let Some(_machine) = ready("adoption after SIGTERM") else {
        return Ok(());
    };
    adopts(libc::SIGTERM, "watch")?;
    adopts(libc::SIGTERM, "block")
}

/// Any word in a flow's slot, and any lists: what is dropped is what a slow reading of the table and the lists says, and
/// nothing else of the flow changes.
#[test]
fn block_by_any_mark_and_any_list() -> Result<()> {
    let Some(_machine) = machine::shared("marks and lists of any kind") else {
        return Ok(());
    };
    const PROGRAM: &str = "filter_ingress";
    let policy = Policy::new(&PrefilterSettings { mode: Mode::Block, ..Default::default() }, None);
    let config = policy.config();
    let setup = Setup { programs: &[PROGRAM], flows: 4096, prefilter: config, ..Setup::default() };
    let mut test_programs = TestPrograms::load(&setup)?;
    let mut filter = test_programs.filter(&config)?;
    let mut random = fastrand::Rng::with_seed(6);
    let (mut dropped, mut marked, mut sent) = (0, 0, 0_u64);
    for round in 0..60 {
        // Few addresses and ports, so that rules meet packets, and each other.
        let host = |random: &mut fastrand::Rng| [10, random.u8(0..2), random.u8(0..2), random.u8(0..3)];
        let rules: Vec<Rule> = (0..random.usize(0..12))
            .map(|_| {
                let bits = *random.choice(&[0_u8, 8, 16, 24, 31, 32]).unwrap_or(&0);
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                let network = u32::from_be_bytes(host(&mut random)) & mask;
                Rule {
                    listed: if random.bool() { listed::ALLOW } else { listed::DENY },
                    prefix: random.bool().then(|| (IpAddr::from(network.to_be_bytes()), bits)),
                    port: random.bool().then(|| random.u16(1..4)),
                }
            })
            .collect();
        filter.lists.install(&filter.heartbeat, &rules)?;
        for _ in 0..100 {
            let (from, to) = (host(&mut random), host(&mut random));
            let (from_port, to_port) = (random.u16(1..4), random.u16(1..4));
            let address = |octets: [u8; 4]| IpAddr::from(octets).to_string();
            let transport = Transport::udp(from_port, to_port).payload([0; 20]);
            let frame = Packet::ipv4(&address(from), &address(to)).with(transport).build();
            let alive = random.u8(0..10) != 0;
            filter.heartbeat.beat(if alive { clock::monotonic() } else { 0 });
            // Half of the words are near to those that mean something.
            let near = random.u32(0..0x400) | u32::from(random.u16(..)) << 16;
            let word = if random.bool() { near } else { random.u32(..) };
            // The flow is there from its first packet on; its verdict may be any word from the second on.
            test_programs.outcome(PROGRAM, &frame, 1)?;
            let entries = 0..test_programs.table.size().entries();
            entries.for_each(|entry| test_programs.table.store_word(entry, word));
            let (verdict, _) = test_programs.outcome(PROGRAM, &frame, 1)?;
            sent += 2;
            let ends = [(IpAddr::from(from), from_port), (IpAddr::from(to), to_port)];
            let malicious = [3, 0x103].contains(&(word & 0xffff));
            let wanted = match (alive, slow_listed(&rules, ends)) {
                (false, _) | (true, Some(true)) => XDP_PASS,
                (true, Some(false)) => XDP_DROP,
                (true, None) if malicious => XDP_DROP,
                (true, None) => XDP_PASS,
            };
            ensure!(
                verdict == wanted,
                "round {round}: {ends:?}, mark {word:#x}, alive {alive}, rules {rules:?}: {verdict}, not {wanted}"
            );
            dropped += u64::from(verdict == XDP_DROP);
            marked += u64::from(malicious);
        }
    }
    ensure!(dropped > 500 && marked > 3, "{dropped} dropped, {marked} marked: not enough of each was tried");
    let counted = test_programs.counted()?;
    ensure!(counted.balanced() && counted.seen == sent && counted.counted == sent, "{counted:?}");
    let in_flows: u64 = (0..test_programs.table.size().slots())
        .map(|slot| test_programs.table.tag(slot))
        .filter(|tag| tag & state::MASK == state::LIVE)
        .filter_map(|tag| test_programs.table.copy_retired(tag))
        .map(|entry| entry.state.packets())
        .sum();
    ensure!(in_flows == sent, "{in_flows} packets are in flows, {sent} were sent");
    Ok(())
}

/// What the lists say of a packet, rule by rule: the longest prefix of an end, among the rules with its port and else among
/// those without one; true if either end is allowed.
fn slow_listed(rules: &[Rule], ends: [(IpAddr, u16); 2]) -> Option<bool> {
    let of = |(address, port): (IpAddr, u16)| {
        let best = |with: bool| {
            let matching = rules.iter().filter(|rule| match rule.port {
                Some(own) => with && own == port,
                None => !with,
            });
            let within = matching.filter_map(|rule| match (rule.prefix, address) {
                (None, _) => Some((-1, rule.listed)),
                (Some((IpAddr::V4(network), bits)), IpAddr::V4(own)) => {
                    let rest = 32 - u32::from(bits);
                    let same = (u64::from(u32::from(network)) >> rest) == (u64::from(u32::from(own)) >> rest);
                    same.then_some((i32::from(bits), rule.listed))
                }
                _ => None,
            });
            // Of equal rules the later one counts.
            within.max_by_key(|(bits, _)| *bits).map(|(_, list)| list)
        };
        best(true).or_else(|| best(false))
    };
    let said = ends.map(of);
    if said.contains(&Some(listed::ALLOW)) {
        Some(true)
    } else {
        said.contains(&Some(listed::DENY)).then_some(false)
    }
}

/// A stream of packets of malicious flows, numbered one after the other, sent until told to stop; and the number of the
/// next, so that a moment can be found again.
struct Stream {
    next: AtomicU64,
    stop: AtomicBool,
}

impl Stream {
    const BASE: u64 = 1_000_000;

    /// Waits until so many packets more have been sent: a second or so, longer on a busy machine.
    fn wait_for_more(&self, packets: u64) {
        let enough = self.next.load(Ordering::Relaxed) + packets;
        // A sender that fails sends no more; what it failed with is told when it is joined.
        let limit = Instant::now() + Duration::from_secs(60);
        while self.next.load(Ordering::Relaxed) < enough && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends about five packets a millisecond, of the malicious flows that [`firsts`] has begun.
    fn run(&self, place: &Place) -> Result<()> {
        let malicious: Vec<_> = flows().filter(|(_, name, _)| *name == "malicious").collect();
        place.sends.run(|| {
            let sender = Sender::open("out")?;
            let mut n = 0_u64;
            while !self.stop.load(Ordering::Relaxed) {
                let frames: Vec<Frame> = (0..5)
                    .map(|i| {
                        let (flow, _, size) = malicious[(n + i) as usize % malicious.len()];
                        let client = format!("192.0.2.{}", flow + 1);
                        numbered((&client, 40_000), ("198.51.100.1", 9999), size, Self::BASE + n + i)
                    })
                    .collect();
                sender.send(&frames, Pace::Unpaced, Oversized::Refuse, &AtomicBool::new(false))?;
                n += 5;
                self.next.store(Self::BASE + n, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })?
    }
}

/// What is done to an agent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    /// kill -9.
    Killed,
    /// SIGSTOP.
    Hung,
    /// A flow that its model cannot score.
    Broken,
}

/// Under load an agent comes to harm: what is sent two seconds later arrives at the host, every packet; until then the mode
/// was in force.
fn fails_open(mode: &str, harm: Harm, further: &[&str]) -> Result<()> {
    let place = Place::new()?;
    let agent = place.agent(&[&words(mode)[..], further].concat())?;
    let [_inspector, host, _] = place.captures()?;
    place.arrive(&firsts())?;
    wait_for_verdicts(&agent)?;
    if harm == Harm::Broken {
        // So many that they reach no further checkpoint meanwhile: a batch that can be scored shows a model that works.
        let frames: Vec<Frame> = (0..4200)
            .flat_map(|n| {
                let malicious = flows().filter(|(_, name, _)| *name == "malicious");
                malicious.map(move |(flow, _, size)| packet(flow, size, FIRST + n, false))
            })
            .collect();
        place.arrive(&frames)?;
        place.settle()?;
    }
    let stream = Stream { next: AtomicU64::new(Stream::BASE), stop: AtomicBool::new(false) };
    let mut moments = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(|| stream.run(&place));
        let mut moment = || moments.push(stream.next.load(Ordering::Relaxed));
        let done = (|| {
            moment();
            std::thread::sleep(Duration::from_millis(500));
            moment();
            match harm {
                Harm::Killed => agent.signal(libc::SIGKILL)?,
                Harm::Hung => agent.signal(libc::SIGSTOP)?,
                Harm::Broken => {
                    let frames: Vec<Frame> = (0..FIRST).map(|n| packet(200, BROKEN, n, false)).collect();
                    place.arrive(&frames)?;
                }
            }
            std::thread::sleep(FAIL_OPEN);
            moment();
            stream.wait_for_more(ENOUGH);
            moment();
            if harm == Harm::Hung {
                agent.signal(libc::SIGCONT)?;
                std::thread::sleep(Duration::from_secs(1));
                moment();
                std::thread::sleep(Duration::from_millis(500));
                moment();
            }
            Ok(())
        })();
        stream.stop.store(true, Ordering::Relaxed);
        sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        done
    })?;
    place.settle()?;
    let host = host.finish()?;
    let of = |from: usize, to: usize| -> (u64, u64) {
        // Packets are made five at a time, before they are sent: those at the edge belong to neither side.
        let range = moments[from] + 5..moments[to].saturating_sub(5);
        (host.range(range.clone()).count() as u64, range.end - range.start)
    };
    let (passed, sent) = of(0, 1);
    let wanted = if mode == "mirror" { sent } else { 0 };
    ensure!(passed == wanted, "{mode} before: {passed} of {sent} packets came to the host");
    let (passed, sent) = of(2, 3);
    ensure!(
        passed == sent && sent >= ENOUGH - 10,
        "{mode}, {harm:?}: {passed} of {sent} packets passed two seconds later"
    );
    if harm == Harm::Hung {
        let (passed, sent) = of(4, 5);
        ensure!(passed == if mode == "mirror" { sent } else { 0 }, "{mode}, awake again: {passed} of {sent}");
    }
    Ok(())
}

#[test]
fn killed_in_every_mode() -> Result<()> {
    let Some(_machine) = ready("an agent that is killed") else {
        return Ok(());
    };
    for mode in ["mirror", "divert", "block"] {
        fails_open(mode, Harm::Killed, &[])?;
    }
    Ok(())
}

/// The programs stay, and pass everything.
#[test]
fn killed_in_every_mode_with_pins() -> Result<()> {
    let Some(_machine) = ready("an agent that is killed, with pins") else {
        return Ok(());
    };
    for mode in ["mirror", "divert", "block"] {
        let pins = PinFolder::new()?;
        fails_open(mode, Harm::Killed, &["--pin", &pins.word()])?;
    }
    Ok(())
}

#[test]
fn hung_in_every_mode() -> Result<()> {
    let Some(_machine) = ready("an agent that hangs") else {
        return Ok(());
    };
    for mode in ["mirror", "divert", "block"] {
        fails_open(mode, Harm::Hung, &[])?;
    }
    Ok(())
}

#[test]
fn a_broken_model_in_every_mode() -> Result<()> {
    let Some(_machine) = ready("an agent whose model fails") else {
        return Ok(());
    };
    for mode in ["mirror", "divert", "block"] {
        fails_open(mode, Harm::Broken, &[])?;
    }
    Ok(())
}

/// Lists come before verdicts, and are read again on SIGHUP; a list that is wrong changes nothing.
#[test]
fn lists_are_read_again() -> Result<()> {
    let Some(_machine) = ready("lists") else {
        return Ok(());
    };
    let place = Place::new()?;
    let (allow, deny) = (place.file("allow"), place.file("deny"));
    // Flow 2 is malicious, and flow 0 benign.
    std::fs::write(&allow, "192.0.2.3\n")?;
    std::fs::write(&deny, "192.0.2.1 40000 # the client's end\n")?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let (allow_word, deny_word) = (path(&allow), path(&deny));
    let words = [&words("block")[..], &["--allow", &allow_word, "--deny", &deny_word]].concat();
    let mut agent = place.agent(&words)?;
    let [_, host, _] = place.captures()?;
    place.arrive(&firsts())?;
    wait_for_verdicts(&agent)?;
    let mut n = FIRST;
    let mut round = |flows: &[(u64, usize)]| -> Result<Vec<u64>> {
        let frames: Vec<Frame> = flows.iter().map(|&(flow, size)| packet(flow, size, n, false)).collect();
        place.arrive(&frames)?;
        n += 1;
        Ok(flows.iter().map(|(flow, _)| flow * BLOCK + n - 1).collect())
    };
    let both = [(0, SIZES[0].1), (2, SIZES[2].1)];
    let before = round(&both)?;
    std::fs::write(&allow, "")?;
    std::fs::write(&deny, "198.51.100.0/24 9998\n")?;
    agent.signal(libc::SIGHUP)?;
    agent.wait_said("in force: 1 rule")?;
    let after = round(&both)?;
    std::fs::write(&deny, "192.0.2.0/33\n")?;
    agent.signal(libc::SIGHUP)?;
    agent.wait_said("stay as they were")?;
    let wrong = round(&both)?;
    std::fs::write(&deny, "any\n")?;
    agent.signal(libc::SIGHUP)?;
    agent.wait_said("in force: 1 rule")?;
    let all = round(&both)?;
    place.settle()?;
    let outcome = agent.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;
    let host = host.finish()?;
    let came = |numbers: &[u64]| numbers.iter().map(|n| host.contains(n)).collect::<Vec<_>>();
    ensure!(!host.contains(&0) && host.contains(&(2 * BLOCK)), "lists count from the first packet on");
    ensure!(
        came(&before) == [false, true],
        "denied though benign, allowed though malicious: {:?}",
        came(&before)
    );
    ensure!(came(&after) == [true, false], "verdicts again: {:?}", came(&after));
    ensure!(came(&wrong) == [true, false], "a wrong list changes nothing: {:?}", came(&wrong));
    ensure!(came(&all) == [false, false], "everything is denied: {:?}", came(&all));
    let causes = &outcome.stats()?["interfaces"][0]["prefilter"]["by_cause"];
    ensure!(number(&causes["allowed"]["passed"], "packets")? == FIRST + 1, "{causes}");
    ensure!(number(&causes["denied"]["dropped"], "packets")? == FIRST + 3, "{causes}");
    Ok(())
}

/// With `--audit 1` every flow is in the audit lane, and the log says so.
#[test]
fn the_audit_lane_goes_to_the_inspector() -> Result<()> {
    let Some(_machine) = ready("the audit lane") else {
        return Ok(());
    };
    let ([inspector, ..], account) = mixed("divert", &["--audit", "1"])?;
    same("inspector", &inspector, &numbers(ALL, 0..END, 1, 0))?;
    let audited = &account["prefilter"]["by_cause"]["audited"]["diverted"];
    ensure!(number(audited, "packets")? == FLOWS * REST, "{account}");
    Ok(())
}

/// A random part of the cleared flows stays in the inspector's sight, all of each; and `flowmeter audit` joins alerts with
/// the log.
#[test]
fn an_audit_from_log_and_alerts() -> Result<()> {
    let Some(_machine) = ready("an audit") else {
        return Ok(());
    };
    const MANY: u64 = 60;
    let place = Place::new()?;
    let agent = place.agent(&[&words("divert")[..], &["--audit", "3"]].concat())?;
    let [inspector, ..] = place.captures()?;
    let round = |n: u64| -> Result<()> {
        let frames: Vec<Frame> = (0..MANY).map(|flow| packet(flow, SIZES[0].1, n, false)).collect();
        place.arrive(&frames)
    };
    (0..FIRST).try_for_each(round)?;
    agent.wait_for(MANY as usize, |row| row["event"] == "verdict")?;
    (FIRST..END).try_for_each(round)?;
    place.settle()?;
    let outcome = agent.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;
    let seen = inspector.finish()?;
    let (mut audited, mut spared) = (Vec::new(), Vec::new());
    for row in outcome.flows() {
        let client = text(row, "src_ip")?;
        let flow =
            client.rsplit('.').next().and_then(|last| last.parse::<u64>().ok()).context("a client")? - 1;
        ensure!(row["marked"] == "benign", "{row}");
        let came = seen.range(flow * BLOCK..(flow + 1) * BLOCK).count() as u64;
        if row["audited"] == true {
            ensure!(came == END, "{came} packets of an audited flow came");
            audited.push(text(row, "community_id")?);
        } else {
            ensure!(came == FIRST, "{came} packets of a spared flow came");
            spared.push(text(row, "community_id")?);
        }
    }
    // Of 60 flows 1 in 3: fewer than 5 or more than 40 is one run in a million.
    ensure!((5..=40).contains(&audited.len()), "{} of {MANY} flows were audited", audited.len());
    // One alert in the middle of an audited flow's life after its verdict, one at a spared flow's beginning.
    let (miss, other) = (audited.first().context("audited")?, spared.first().context("spared")?);
    let at = |row: &Value, share: f64| -> Result<String> {
        let nanoseconds = (row["duration"].as_f64().context("a duration")? * share * 1e9) as i64;
        let start: jiff::Timestamp = text(row, "timestamp")?.parse()?;
        let time = start + jiff::SignedDuration::from_nanos(nanoseconds);
        Ok(time.strftime("%Y-%m-%dT%H:%M:%S%.6f+0000").to_string())
    };
    let alert = |id: &str, share: f64| -> Result<String> {
        let row = outcome.flows().find(|row| row["community_id"] == id).context("a flow")?;
        let alert = serde_json::json!({"signature": "test"});
        let event = serde_json::json!({
            "timestamp": at(row, share)?, "event_type": "alert", "community_id": id, "alert": alert,
        });
        Ok(event.to_string() + "\n")
    };
    let eve = place.file("eve.json");
    std::fs::write(&eve, alert(miss, 0.999)? + &alert(other, 0.0)?)?;
    let log = place.file("log");
    let words = ["audit".as_ref(), "--log".as_ref(), log.as_os_str(), "--eve".as_ref(), eve.as_os_str()];
    let said = harness::agent::run(&[&words[..], &["--json".as_ref()]].concat())?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let report: Value = serde_json::from_slice(&said.stdout)?;
    let rate = &report["miss_rate"];
    ensure!(number(&report, "cleared")? == MANY, "{report}");
    ensure!(number(rate, "found")? == 1 && number(rate, "of")? == audited.len() as u64, "{report}");
    ensure!(number(&report, "caught")? == 1 && number(&report, "unmatched_alerts")? == 0, "{report}");
    ensure!(
        number(&report["spared"], "packets")? == spared.len() as u64 * REST
            && number(&report["seen"], "packets")? == MANY * END,
        "{report}"
    );
    let said = String::from_utf8(harness::agent::run(&words)?.stdout)?;
    ensure!(said.contains("95 % interval") && said.contains(miss), "{said}");
    Ok(())
}

/// What cannot be meant is refused.
#[test]
fn refusals() -> Result<()> {
    let Some(_machine) = ready("refusals") else {
        return Ok(());
    };
    let place = Place::new()?;
    for (words, part) in [
        (&["--mode", "block"][..], "--yes-drop-traffic"),
        (&["--mode", "divert"], "--inspector"),
        (&["--mode", "divert", "--inspector", "in"], "of its own"),
        (&["--mode", "mirror", "--inspector", "no-such0"], "no-such0"),
        (&["--mode", "mirror", "--inspector", "ids0", "--deny", "/no-such-file"], "/no-such-file"),
        (&["--allow", "/no-such-file"], "--mode watch"),
    ] {
        let problem = place.agent(words).err().with_context(|| format!("{words:?} was taken"))?;
        let said = format!("{problem:#}");
        ensure!(said.contains(part) && !said.contains("panicked"), "{words:?}: {said}");
        ensure!(!place.watches.has_xdp("in")?, "{words:?} left a program attached");
    }
    Ok(())
}
