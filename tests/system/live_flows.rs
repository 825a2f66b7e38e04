//! Promise: what ordinary programs send through a watched interface appears as flows, with the right ends, the right
//! direction, and exactly the packets and bytes that a second observer counts.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::agent::{Agent, Outcome, Signal};
use harness::netns::{Chatter, Namespace, Offload};
use harness::row::{Conversation, Counted, End};
use harness::tap::{Count, OneWay, Tap};
use harness::{machine, require_program};

const CLIENT: [&str; 2] = ["10.77.0.1", "2001:db8:77::1"];
const SERVER: [&str; 2] = ["10.77.0.2", "2001:db8:77::2"];
/// How often traffic is made again when the cable, a ring of packets in memory, was full on a busy machine.
const TRIES: u32 = 5;

/// A client and a server, joined by a cable of which FlowMeter watches the server's end.
struct Bench {
    client: Namespace,
    server: Namespace,
}

impl Bench {
    fn new(offload: Offload) -> Result<Self> {
        let (client, server) = (Namespace::new("client")?, Namespace::new("server")?);
        client.join("c0", &server, "s0", Chatter::OnDemand, offload)?;
        for (address, prefix) in CLIENT.iter().zip(["24", "64"]) {
            client.add_address("c0", &format!("{address}/{prefix}"))?;
        }
        for (address, prefix) in SERVER.iter().zip(["24", "64"]) {
            server.add_address("s0", &format!("{address}/{prefix}"))?;
        }
        Ok(Self { client, server })
    }

    /// Watches, lets `work` make traffic, and returns what FlowMeter wrote and what the tap counted. Begins anew if the
    /// cable dropped a packet: the tap sees packets as they leave, so it saw one that never arrived.
    fn watch(&self, work: impl Fn(&Self) -> Result<()>) -> Result<(Outcome, HashMap<OneWay, Count>)> {
        for _ in 0..TRIES {
            let folder = tempfile::tempdir()?;
            let agent = Agent::start(&self.server, &["s0"], &folder.path().join("log"), &[])?;
            let dropped_before = self.dropped_packets()?;
            let tap = Tap::start(&self.client, "c0")?;
            work(self)?;
            self.client.wait_quiet("c0")?;
            self.server.wait_quiet("s0")?;
            let tapped = tap.finish()?;
            let dropped = self.dropped_packets()? - dropped_before;
            let outcome = agent.stop(Signal::Interrupt)?;
            if dropped == 0 {
                return Ok((outcome, tapped));
            }
            eprintln!("the cable dropped {dropped} packets that the tap had seen; once more");
        }
        bail!("the cable dropped packets in each of {TRIES} tries: there is nothing to compare with")
    }

    fn dropped_packets(&self) -> Result<u64> {
        Ok(self.client.dropped_packets("c0")? + self.server.dropped_packets("s0")?)
    }
}

/// Fails unless both observers agree on every TCP and UDP conversation, and the client began each.
fn agree(outcome: &Outcome, tapped: &HashMap<OneWay, Count>) -> Result<BTreeMap<Conversation, Counted>> {
    outcome.expect_clean()?;
    let client: Vec<IpAddr> = CLIENT.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let mut flows: BTreeMap<Conversation, Counted> = BTreeMap::new();
    for row in outcome.flows() {
        let counted = Counted::of(row)?;
        if !matches!(counted.protocol, 6 | 17) {
            continue;
        }
        ensure!(client.contains(&counted.source.0), "the client began every flow, but not this one: {row}");
        flows
            .entry(counted.conversation())
            .and_modify(|sum| {
                sum.packets_forward += counted.packets_forward;
                sum.packets_backward += counted.packets_backward;
                sum.bytes_forward += counted.bytes_forward;
                sum.bytes_backward += counted.bytes_backward;
            })
            .or_insert(counted);
    }
    for flow in flows.values() {
        let way =
            |from: End, to: End| tapped.get(&(flow.protocol as u8, from, to)).copied().unwrap_or_default();
        let (there, back) = (way(flow.source, flow.destination), way(flow.destination, flow.source));
        let logged = (
            Count { packets: flow.packets_forward, bytes: flow.bytes_forward },
            Count { packets: flow.packets_backward, bytes: flow.bytes_backward },
        );
        ensure!(logged == (there, back), "{flow:?}\nlogged  {logged:?}\ntapped  {:?}", (there, back));
    }
    for (protocol, from, to) in tapped.keys() {
        let name = Conversation { protocol: u64::from(*protocol), low: *from.min(to), high: *from.max(to) };
        ensure!(
            flows.contains_key(&name),
            "the log has no flow of {name:?}; flowmeter said:\n{}",
            outcome.said
        );
    }
    Ok(flows)
}

/// Sends `up` bytes to a TCP server in the bench and reads `down` bytes back.
fn exchange(bench: &Bench, version: usize, up: usize, down: usize) -> Result<()> {
    let address = SocketAddr::new(SERVER[version].parse()?, 0);
    let listener = bench.server.run(|| TcpListener::bind(address))??;
    let target = listener.local_addr()?;
    std::thread::scope(|scope| {
        let serving = scope.spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.read_exact(&mut vec![0; up])?;
            stream.write_all(&vec![7; down])?;
            Ok(())
        });
        let mut stream =
            bench.client.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(3)))??;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(&vec![9; up])?;
        stream.read_exact(&mut vec![0; down])?;
        drop(stream);
        serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Sends `count` datagrams and has half of them answered.
fn datagrams(bench: &Bench, version: usize, count: usize) -> Result<()> {
    let server =
        bench.server.run(|| UdpSocket::bind(SocketAddr::new(SERVER[version].parse().unwrap(), 0)))??;
    let client =
        bench.client.run(|| UdpSocket::bind(SocketAddr::new(CLIENT[version].parse().unwrap(), 0)))??;
    client.connect(server.local_addr()?)?;
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    }
    for i in 0..count {
        client.send(&vec![1; 10 + i])?;
        let (_, peer) = server.recv_from(&mut [0; 2000])?;
        if i % 2 == 0 {
            server.send_to(&vec![2; 500], peer)?;
            client.recv(&mut [0; 2000])?;
        }
    }
    Ok(())
}

#[test]
fn sockets_over_both_ip_versions() -> Result<()> {
    let Some(_machine) = machine::shared("flows of sockets") else {
        return Ok(());
    };
    let bench = Bench::new(Offload::Off)?;
    let (outcome, tapped) = bench.watch(|bench| {
        for version in [0, 1] {
            exchange(bench, version, 1, 1)?;
            exchange(bench, version, 100, 300_000)?;
            exchange(bench, version, 200_000, 10)?;
            datagrams(bench, version, 20)?;
        }
        Ok(())
    })?;
    let flows = agree(&outcome, &tapped)?;
    ensure!(flows.len() == 8, "eight conversations took place, the log has {}", flows.len());
    Ok(())
}

/// A sender hands over up to 64 KiB at once; each is as many packets as a cable would have carried.
#[test]
fn super_packets_count_as_their_segments() -> Result<()> {
    let Some(_machine) = machine::shared("counts of segmentation super-packets") else {
        return Ok(());
    };
    let bench = Bench::new(Offload::Usual)?;
    let (outcome, tapped) = bench.watch(|bench| {
        for version in [0, 1] {
            exchange(bench, version, 10, 3_000_000)?;
            exchange(bench, version, 3_000_000, 10)?;
        }
        Ok(())
    })?;
    let flows = agree(&outcome, &tapped)?;
    for flow in flows.values() {
        // 3,000,000 bytes in packets of at most 1,500 are more than 2,000 packets; super-packets would be about 50.
        ensure!(flow.packets_forward.max(flow.packets_backward) > 2000, "segments are counted: {flow:?}");
    }
    Ok(())
}

/// A server program, ended when dropped.
struct Server(Child);

impl Server {
    /// Starts it, and waits until it listens on a TCP port of its namespace.
    fn start(mut command: Command, namespace: &Namespace, port: u16) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let server = Self(child);
        namespace.wait_listening(port).with_context(|| format!("{command:?}"))?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a client program to its end; fails if it does.
fn client(mut command: Command, input: &[u8]) -> Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    child.stdin.take().context("standard input is piped")?.write_all(input)?;
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

#[test]
fn curl_iperf3_and_nc() -> Result<()> {
    let Some(_machine) = machine::shared("flows of curl, iperf3 and nc") else {
        return Ok(());
    };
    for program in ["curl", "python3", "iperf3", "nc"] {
        if !require_program(program) {
            return Ok(());
        }
    }
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("file"), vec![5; 250_000])?;
    let bench = Bench::new(Offload::Usual)?;
    let (outcome, tapped) = bench.watch(|bench| {
        for (server, host) in [(SERVER[0], SERVER[0].to_owned()), (SERVER[1], format!("[{}]", SERVER[1]))] {
            let mut command = bench.server.command("python3");
            command.args(["-m", "http.server", "8000", "--bind", server, "--directory"]).arg(folder.path());
            let web = Server::start(command, &bench.server, 8000)?;
            let mut command = bench.client.command("curl");
            command.args([
                "-s",
                "-g",
                "--max-time",
                "10",
                "-o",
                "/dev/null",
                &format!("http://{host}:8000/file"),
            ]);
            client(command, b"")?;
            drop(web);

            let mut command = bench.server.command("iperf3");
            command.args(["-s", "-1", "-B", server]);
            let iperf = Server::start(command, &bench.server, 5201)?;
            let mut command = bench.client.command("iperf3");
            command.args(["-c", server, "-n", "8M", "-b", "400M"]);
            client(command, b"")?;
            drop(iperf);

            let mut command = bench.server.command("nc");
            command.args(["-l", server, "9000"]);
            let listener = Server::start(command, &bench.server, 9000)?;
            let mut command = bench.client.command("nc");
            command.args(["-N", server, "9000"]);
            client(command, &[3; 40_000])?;
            drop(listener);
        }
        Ok(())
    })?;
    let flows = agree(&outcome, &tapped)?;
    // curl one, iperf3 a control and a data connection, nc one; over two IP versions.
    for (port, expected) in [(8000, 2), (5201, 4), (9000, 2)] {
        let found = flows.values().filter(|flow| flow.destination.1 == port).count();
        ensure!(found == expected, "{expected} flows to port {port} are expected, the log has {found}");
    }
    Ok(())
}

/// The loopback has no native XDP, and what leaves it arrives there: each packet counts once.
#[test]
fn loopback_in_generic_mode() -> Result<()> {
    let Some(_machine) = machine::shared("flows of the loopback interface") else {
        return Ok(());
    };
    let place = Namespace::new("loopback")?;
    let folder = tempfile::tempdir()?;
    let agent = Agent::start(&place, &["lo"], &folder.path().join("log"), &[])?;
    place.run(|| -> Result<()> {
        let server = UdpSocket::bind("127.0.0.1:0")?;
        let client = UdpSocket::bind("127.0.0.1:0")?;
        client.send_to(b"question", server.local_addr()?)?;
        server.set_read_timeout(Some(Duration::from_secs(3)))?;
        server.recv(&mut [0; 100])?;
        Ok(())
    })??;
    place.wait_quiet("lo")?;
    let outcome = agent.stop(Signal::Interrupt)?;
    outcome.expect_clean()?;
    ensure!(outcome.said.contains("generic"), "the mode is said: {}", outcome.said);
    let flows = outcome.flows().map(Counted::of).collect::<Result<Vec<_>>>()?;
    ensure!(flows.len() == 1, "one flow is expected: {flows:?}");
    ensure!(
        (flows[0].packets_forward, flows[0].packets_backward) == (1, 0),
        "one packet was sent: {flows:?}"
    );
    Ok(())
}
