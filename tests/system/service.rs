//! Promise: the agent says how it is, and what it says is true: metrics equal the log, and a stuck pipeline is not healthy.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::agent::{Agent, Signal};
use harness::cable::Cable;
use harness::frames::{Packet, Transport};
use harness::replay::Frame;
use harness::{machine, wait_until};
use serde_json::Value;

/// Options under which a flow is written soon after its last packet.
const SOON: [&str; 5] = ["--no-model", "--idle-timeout", "200ms", "--stats-interval", "200ms"];

/// A datagram of each of some flows.
fn datagrams(ports: std::ops::Range<u16>) -> Vec<Frame> {
    let one = |port| {
        Packet::ipv4("192.0.2.1", "198.51.100.7").with(Transport::udp(5000, port).payload(*b"question"))
    };
    ports.map(|port| Frame::new(0, one(port).build())).collect()
}

/// Asks for a page; its status, and what it says.
fn get(mut stream: impl std::io::Read + std::io::Write, path: &str) -> Result<(u16, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: sensor\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}

fn ask(socket: &Path, path: &str) -> Result<(u16, String)> {
    get(UnixStream::connect(socket).with_context(|| socket.display().to_string())?, path)
}

/// A counter's value in the metrics' text.
fn value(text: &str, series: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = line.with_context(|| format!("no {series} in\n{text}"))?;
    value.parse::<f64>().map(|value| value as u64).with_context(|| format!("{series} {value}"))
}

#[test]
fn metrics_are_the_numbers_of_the_log() -> Result<()> {
    let Some(_machine) = machine::shared("metrics") else { return Ok(()) };
    let cable = Cable::new()?;
    let socket = cable.file("socket");
    let place = socket.to_string_lossy();
    cable.watches.ip(&["link", "set", "lo", "up"])?;
    let words = [&SOON[..], &["--metrics", "9598", "--socket", &place]].concat();
    let agent = cable.agent(&words)?;
    cable.send(&datagrams(100..140))?;
    agent.wait_for(40, |row| row["event"] == "flow")?;
    let of_tcp = |path: &'static str| {
        cable.watches.run(|| get(TcpStream::connect("127.0.0.1:9598").context("connecting")?, path))?
    };
    wait_until("ready", || Ok(of_tcp("/readyz")?.0 == 200))?;
    wait_until("forty flows", || {
        let (_, text) = of_tcp("/metrics")?;
        Ok(value(&text, "flowmeter_flows_ended_total{reason=\"idle\"}").unwrap_or(0) == 40)
    })?;
    let (status, text) = of_tcp("/metrics")?;
    ensure!(status == 200 && text.ends_with("# EOF\n"), "{status} {text}");
    ensure!(of_tcp("/healthz")? == (200, "ok\n".to_owned()), "healthy");
    ensure!(of_tcp("/nothing")?.0 == 404 && ask(&socket, "/healthz")?.0 == 200, "pages");
    let line: Value = serde_json::from_str(&ask(&socket, "/stats")?.1)?;
    let outcome = agent.stop(Signal::Terminate)?;
    outcome.expect_clean()?;
    let stats = outcome.stats()?;
    let interface = &stats["interfaces"][0];
    for (series, logged) in [
        ("flowmeter_packets_total{interface=\"in\",outcome=\"counted\"}", &interface["counted"]),
        ("flowmeter_bytes_total{interface=\"in\",outcome=\"counted\"}", &interface["counted_bytes"]),
        ("flowmeter_flows_taken_out_total", &stats["flows"]["ended"]),
        ("flowmeter_flow_slots", &stats["flows"]["slots"]),
        ("flowmeter_verdicts_total{verdict=\"none\"}", &stats["pipeline"]["not_scored"]),
        ("flowmeter_interface_attached{interface=\"in\"}", &1.into()),
        ("flowmeter_account_balanced", &1.into()),
        ("flowmeter_ready", &1.into()),
    ] {
        ensure!(Some(value(&text, series)?) == logged.as_u64(), "{series}: {logged} in the log, in\n{text}");
    }
    ensure!(line["interfaces"][0]["counted"] == interface["counted"], "{line}");
    ensure!(!socket.exists(), "the socket's file goes with the agent");
    Ok(())
}

#[test]
fn a_pipeline_that_hangs_is_not_healthy_and_heals() -> Result<()> {
    let Some(_machine) = machine::shared("health") else { return Ok(()) };
    let cable = Cable::new()?;
    let (socket, log) = (cable.file("socket"), cable.file("pipe"));
    let place = socket.to_string_lossy();
    let made = Command::new("mkfifo").arg(&log).status()?;
    ensure!(made.success(), "mkfifo");
    // Opened for both, so that the agent need not wait for it.
    let mut reader = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&log)?;
    let words = [&SOON[..3], &["--stats-interval", "5ms", "--socket", &place]].concat();
    let agent = Agent::start(&cable.watches, &["in"], &log, &words)?;
    wait_until("the pipe is full and nobody reads", || Ok(ask(&socket, "/healthz")?.0 == 503))?;
    let (status, why) = ask(&socket, "/readyz")?;
    ensure!(status == 503 && why.contains("no heartbeat"), "{status} {why}");
    let (status, text) = ask(&socket, "/metrics")?;
    ensure!(status == 200 && value(&text, "flowmeter_healthy")? == 0, "scraped all the same: {text}");
    ensure!(value(&text, "flowmeter_queue_ended_batches")? > 0, "what waits is shown: {text}");
    let mut some = vec![0; 1 << 16];
    wait_until("it is read again", || {
        while reader.read(&mut some).is_ok_and(|bytes| bytes != 0) {}
        Ok(ask(&socket, "/healthz")?.0 == 200)
    })?;
    agent.signal(libc::SIGKILL)
}

#[test]
fn an_interface_that_is_gone_is_not_ready() -> Result<()> {
    let Some(_machine) = machine::shared("readiness") else { return Ok(()) };
    let cable = Cable::new()?;
    let socket = cable.file("socket");
    let place = socket.to_string_lossy();
    let words = [&SOON[..], &["--socket", &place]].concat();
    let agent = cable.agent(&words)?;
    wait_until("ready", || Ok(ask(&socket, "/readyz")?.0 == 200))?;
    cable.watches.ip(&["link", "delete", "in"])?;
    wait_until("not ready", || Ok(ask(&socket, "/readyz")?.1.contains("in is not watched: it is gone")))?;
    ensure!(ask(&socket, "/healthz")?.0 == 200, "it works, and waits for the interface");
    let (_, text) = ask(&socket, "/metrics")?;
    ensure!(value(&text, "flowmeter_interface_attached{interface=\"in\"}")? == 0, "{text}");
    ensure!(value(&text, "flowmeter_interface_link{interface=\"in\",link=\"gone\"}")? == 1, "{text}");
    agent.end(Signal::Terminate).map(drop)
}

#[test]
fn a_client_that_stalls_or_talks_nonsense_keeps_nobody_waiting() -> Result<()> {
    let Some(_machine) = machine::shared("clients of the metrics") else { return Ok(()) };
    let cable = Cable::new()?;
    let socket = cable.file("socket");
    let place = socket.to_string_lossy();
    let words = [&SOON[..], &["--socket", &place]].concat();
    let agent = cable.agent(&words)?;
    let stalled: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&socket)).collect::<Result<_, _>>()?;
    wait_until("an answer beside forty that stall", || Ok(ask(&socket, "/healthz")?.0 == 200))?;
    drop(stalled);
    let mut noise = UnixStream::connect(&socket)?;
    noise.write_all(&[0xff; 20_000]).or_else(|_| anyhow::Ok(()))?;
    ensure!(ask(&socket, "/metrics")?.0 == 200, "it answers on");
    let mut post = UnixStream::connect(&socket)?;
    post.write_all(b"POST /metrics HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    post.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    agent.stop(Signal::Terminate)?.expect_clean()
}

/// What a service manager would have been told by now.
struct Manager {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Manager {
    fn at(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, told: Vec::new() })
    }

    /// Reads what has come, and says whether anything of all that begins so.
    fn was_told(&mut self, line: &str) -> bool {
        let mut some = [0; 4096];
        while let Ok(bytes) = self.socket.recv(&mut some) {
            self.told.extend(String::from_utf8_lossy(&some[..bytes]).lines().map(str::to_owned));
        }
        self.told.iter().any(|told| told.starts_with(line))
    }

    fn wait(&mut self, line: &str) -> Result<()> {
        wait_until(line, || Ok(self.was_told(line))).with_context(|| format!("told was: {:?}", self.told))
    }

    /// Forgets what it was told.
    fn forget(&mut self) {
        self.was_told("");
        self.told.clear();
    }
}

#[test]
fn a_service_manager_is_told_and_its_watchdog_starves_when_the_pipeline_hangs() -> Result<()> {
    let Some(_machine) = machine::shared("sd_notify") else { return Ok(()) };
    let cable = Cable::new()?;
    let (place, log, file) = (cable.file("notify"), cable.file("pipe"), cable.file("flowmeter.toml"));
    let mut manager = Manager::at(&place)?;
    ensure!(Command::new("mkfifo").arg(&log).status()?.success(), "mkfifo");
    let mut reader = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&log)?;
    let mut some = vec![0; 1 << 16];
    let options = |interval: &str, flows: u32| {
        format!("interface = \"in\"\nno-model = true\nstats-interval = \"{interval}\"\nmax-flows = {flows}\n")
    };
    std::fs::write(&file, options("1h", 1000))?;
    let words =
        ["live", "--log", &log.to_string_lossy(), "--config", &file.to_string_lossy()].map(Into::into);
    let place = place.to_string_lossy();
    let variables = [("NOTIFY_SOCKET", &*place), ("WATCHDOG_USEC", "400000")];
    let mut agent = Agent::spawn_with(&cable.watches, &words, &log, &variables)?;
    manager.wait("READY=1")?;
    manager.wait("WATCHDOG=1")?;
    manager.wait("STATUS=watching 1 interface:")?;

    // Options are read again: one takes effect, another one is named.
    manager.forget();
    std::fs::write(&file, options("5ms", 2000))?;
    agent.signal(libc::SIGHUP)?;
    agent.wait_said("in force now: stats-interval")?;
    agent.wait_said("take effect when flowmeter is restarted: max-flows")?;
    manager.wait("RELOADING=1")?;
    manager.wait("MONOTONIC_USEC=")?;
    manager.wait("READY=1")?;
    // Wrong ones change nothing.
    std::fs::write(&file, "stats-intervals = \"1s\"\n")?;
    agent.signal(libc::SIGHUP)?;
    agent.wait_said("the options stay as they were")?;

    // Lines come every 5 ms now, and nobody reads them.
    manager.wait("STATUS=not healthy: no heartbeat")?;
    manager.forget();
    std::thread::sleep(Duration::from_secs(2));
    ensure!(
        !manager.was_told("WATCHDOG=1"),
        "the watchdog of an agent that hangs was fed: {:?}",
        manager.told
    );
    wait_until("read again, the watchdog is fed", || {
        while reader.read(&mut some).is_ok_and(|bytes| bytes != 0) {}
        Ok(manager.was_told("WATCHDOG=1"))
    })?;
    agent.signal(libc::SIGTERM)?;
    wait_until("stopping", || {
        while reader.read(&mut some).is_ok_and(|bytes| bytes != 0) {}
        Ok(manager.was_told("STOPPING=1"))
    })?;
    Ok(())
}

/// Whatever is started is ended with the test.
struct Started(std::process::Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn deployed(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

/// True if the program is there; without it a test fails in CI, and says NOT RUN elsewhere.
fn has(program: &str) -> Result<bool> {
    if Command::new(program).arg("--version").output().is_ok() {
        return Ok(true);
    }
    ensure!(std::env::var("CI").as_deref() != Ok("true"), "{program} is not installed");
    eprintln!("NOT RUN: {program} is not installed");
    Ok(false)
}

#[test]
fn alert_rules_raise_what_they_say() -> Result<()> {
    if !has("promtool")? {
        return Ok(());
    }
    for words in [
        &["check", "rules", "alerts.yml"][..],
        &["test", "rules", "alerts_test.yml"],
        &["check", "config", "prometheus.yml"],
    ] {
        let output = Command::new("promtool").args(words).current_dir(deployed("prometheus")).output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "promtool {words:?}: {}", String::from_utf8_lossy(&said));
    }
    Ok(())
}

#[test]
fn prometheus_scrapes_a_sensor_and_raises_an_alert() -> Result<()> {
    let Some(_machine) = machine::shared("a scrape by Prometheus") else { return Ok(()) };
    if !has("prometheus")? {
        return Ok(());
    }
    let cable = Cable::new()?;
    cable.watches.ip(&["link", "set", "lo", "up"])?;
    let agent = cable.agent(&[&SOON[..], &["--metrics", "9598"]].concat())?;
    cable.send(&datagrams(100..107))?;
    // As it is deployed, but quicker.
    let config = std::fs::read_to_string(deployed("prometheus/prometheus.yml"))?;
    let quick = "global:\n  scrape_interval: 250ms\n  evaluation_interval: 250ms\n";
    std::fs::write(cable.file("prometheus.yml"), format!("{quick}{config}"))?;
    let rules = std::fs::read_to_string(deployed("prometheus/alerts.yml"))?;
    let at_once: String = rules
        .lines()
        .filter(|line| !line.trim_start().starts_with("for:"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(cable.file("alerts.yml"), at_once)?;
    let _prometheus = Started(
        cable
            .watches
            .command("prometheus")
            .arg("--config.file")
            .arg(cable.file("prometheus.yml"))
            .arg("--storage.tsdb.path")
            .arg(cable.file("tsdb"))
            .args(["--web.listen-address=127.0.0.1:9090", "--log.level=error"])
            .stdout(std::process::Stdio::null())
            .spawn()?,
    );
    let query = |expression: &str| -> Result<Value> {
        let path = format!("/api/v1/query?query={expression}");
        let answer = cable.watches.run(|| -> Result<_> {
            let Ok(stream) = TcpStream::connect("127.0.0.1:9090") else { return Ok(None) };
            let mut stream = stream;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()))
        })??;
        let body: Value = answer.and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default();
        Ok(body["data"]["result"].clone())
    };
    wait_until("seven flows are scraped", || {
        Ok(query("flowmeter_flows_ended_total")?[0]["value"][1] == "7" && query("up")?[0]["value"][1] == "1")
    })?;
    ensure!(query("flowmeter_packets_total%7Boutcome=%22counted%22%7D")?[0]["value"][1] == "7", "packets");
    cable.watches.ip(&["link", "delete", "in"])?;
    wait_until("the alert", || {
        let alerts =
            query("ALERTS%7Balertname=%22FlowMeterInterfaceNotWatched%22,alertstate=%22firing%22%7D")?;
        Ok(alerts[0]["metric"]["interface"] == "in")
    })?;
    agent.end(Signal::Terminate).map(drop)
}

#[test]
fn a_table_is_cut_into_whole_files() -> Result<()> {
    let Some(_machine) = machine::shared("tables rotate") else { return Ok(()) };
    let cable = Cable::new()?;
    let table = cable.file("flows.csv");
    let words = ["--no-model", "--idle-timeout", "200ms", "--format", "csv", "--rotate", "1s"];
    let agent = Agent::start(&cable.watches, &["in"], &table, &words)?;
    let files = || -> Result<Vec<std::path::PathBuf>> {
        let folder = table.parent().context("a folder")?;
        let mut all: Vec<_> =
            std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        all.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("flows")));
        all.sort();
        Ok(all)
    };
    let finished = |path: &std::path::PathBuf| path.extension().is_some_and(|ending| ending == "csv");
    let mut sent = 0;
    wait_until("three finished files", || {
        cable.send(&datagrams(1000 + sent..1010 + sent))?;
        sent += 10;
        std::thread::sleep(Duration::from_millis(200));
        Ok(files()?.iter().filter(|path| finished(path)).count() >= 3)
    })?;
    let outcome = agent.end(Signal::Terminate)?;
    ensure!(outcome.status.success(), "{}", outcome.said);
    let files = files()?;
    ensure!(files.iter().all(finished), "nothing stays open: {files:?}");
    let mut rows = 0;
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        ensure!(text.starts_with("observed,") && text.ends_with('\n'), "{}: {text}", file.display());
        rows += text.lines().count() - 1;
    }
    ensure!(rows == usize::from(sent), "{rows} of {sent} flows are in {files:?}");
    Ok(())
}
