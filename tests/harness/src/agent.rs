//! Runs the `flowmeter` binary as its users do: starts it in a namespace, stops it by a signal, reads its log.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::netns::Namespace;
use crate::row;

/// How long the agent may take to attach.
const START: Duration = Duration::from_secs(120);
/// How long it may take to flush and detach.
const STOP: Duration = Duration::from_secs(60);
/// A word of the line that it prints on standard error when every interface is watched.
const READY: &str = "watching";

/// The binary under test: `FLOWMETER_BIN`, else the one that cargo built beside this program.
///
/// # Errors
/// It is not built, or was built before one of its sources changed: a test must not praise yesterday's program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FLOWMETER_BIN") {
        return Ok(path.into());
    }
    // Tests lie in target/PROFILE/deps, programs in target/PROFILE.
    let me = std::env::current_exe().context("the path of this program")?;
    let folder = me.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap_or(Path::new("."));
    let binary = folder.join("flowmeter");
    let built = binary.metadata().and_then(|about| about.modified());
    let Ok(built) = built else {
        bail!("there is no {}; build it: cargo build --package flowmeter-userspace", binary.display());
    };
    // Cargo lists beside a program what it was made of.
    let listed = std::fs::read_to_string(folder.join("flowmeter.d")).unwrap_or_default();
    for source in listed.split_ascii_whitespace().skip(1) {
        let changed = Path::new(source).metadata().and_then(|about| about.modified());
        if changed.is_ok_and(|changed| changed > built) {
            bail!(
                "{} is older than {source}; build it: cargo build --package flowmeter-userspace",
                binary.display()
            );
        }
    }
    Ok(binary)
}

/// A signal that asks a program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// What service managers send.
    Terminate,
}

/// What an agent left behind.
#[derive(Debug)]
pub struct Outcome {
    /// Its log, a JSON object a line.
    pub rows: Vec<Value>,
    /// What it said on standard error.
    pub said: String,
    /// How it ended.
    pub status: ExitStatus,
    /// How long it took from the signal to its end.
    pub took: Duration,
}

impl Outcome {
    /// The rows of flows that ended.
    pub fn flows(&self) -> impl Iterator<Item = &Value> {
        self.rows.iter().filter(|row| row["event"] == "flow")
    }

    /// The last `stats` row.
    pub fn stats(&self) -> Result<&Value> {
        self.rows
            .iter()
            .rfind(|row| row["event"] == "stats")
            .with_context(|| format!("the log has no `stats` row; standard error was:\n{}", self.said))
    }

    /// Fails unless the program ended with exit code 0 and the accounting identity holds on every interface.
    pub fn expect_clean(&self) -> Result<()> {
        ensure!(self.status.success(), "flowmeter ended with {}; it said:\n{}", self.status, self.said);
        row::identity(self.stats()?).map(drop)
    }
}

/// A running `flowmeter live`; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    said: String,
    log: PathBuf,
}

impl Agent {
    /// Starts it in a namespace on interfaces, with further words of the command line, and waits until it watches.
    pub fn start(namespace: &Namespace, interfaces: &[&str], log: &Path, further: &[&str]) -> Result<Self> {
        let mut words: Vec<OsString> = vec!["live".into()];
        for interface in interfaces {
            words.extend(["--interface".into(), interface.into()]);
        }
        words.extend(["--log".into(), log.into()]);
        words.extend(further.iter().map(OsString::from));
        let mut agent = Self::spawn(namespace, &words, log)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts it with these words and does not wait.
    pub fn spawn(namespace: &Namespace, words: &[OsString], log: &Path) -> Result<Self> {
        Self::spawn_with(namespace, words, log, &[])
    }

    /// Starts it with these words and variables, and does not wait.
    pub fn spawn_with(
        namespace: &Namespace,
        words: &[OsString],
        log: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let binary = binary()?;
        let mut child = namespace
            .command(&binary)
            .args(words)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let errors = child.stderr.take().context("standard error is piped")?;
        let (sender, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, reader: Some(reader), said: String::new(), log: log.to_owned() })
    }

    /// Waits for the line that says every interface is watched.
    fn wait_ready(&mut self) -> Result<()> {
        self.wait_said(READY).map(drop)
    }

    /// Waits until it says a line on standard error, from now on, that contains these words; returns the line.
    pub fn wait_said(&mut self, words: &str) -> Result<String> {
        let limit = Instant::now() + START;
        loop {
            match self.lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.keep(line.clone());
                    if line.contains(words) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "flowmeter did not say `{words}` within {} s; it said:\n{}",
                        START.as_secs(),
                        self.said
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().context("waiting for flowmeter")?;
                    bail!(
                        "flowmeter ended with {status} before it said `{words}`; it said:\n{}",
                        self.said.trim_end()
                    )
                }
            }
        }
    }

    fn keep(&mut self, line: String) {
        self.said.push_str(&line);
        self.said.push('\n');
    }

    /// What is in the log by now; a line that is being written is left out.
    pub fn rows(&self) -> Result<Vec<Value>> {
        read_log(&self.log)
    }

    /// Waits until the log has as many rows as wanted that are as wanted.
    pub fn wait_for(&self, count: usize, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let limit = Instant::now() + START;
        loop {
            let rows = self.rows()?;
            let found = rows.iter().filter(|row| wanted(row)).count();
            if found >= count {
                return Ok(());
            }
            ensure!(Instant::now() < limit, "{found} of {count} rows came; the last: {:?}", rows.last());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends any signal, and does not wait.
    pub fn signal(&self, number: libc::c_int) -> Result<()> {
        // SAFETY: no pointers; the child has not been waited for, so the number is still its own.
        let result = unsafe { libc::kill(self.child.id() as libc::pid_t, number) };
        ensure!(result == 0, "signalling flowmeter: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// The operating system's number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, waits for the end, and reads the log.
    pub fn stop(self, signal: Signal) -> Result<Outcome> {
        let log = self.log.clone();
        let mut outcome = self.end(signal)?;
        outcome.rows = read_log(&log)?;
        Ok(outcome)
    }

    /// Sends a signal and waits for the end; for logs that are no JSON lines, of which there are no rows then.
    pub fn end(mut self, signal: Signal) -> Result<Outcome> {
        let number = match signal {
            Signal::Interrupt => libc::SIGINT,
            Signal::Terminate => libc::SIGTERM,
        };
        let begin = Instant::now();
        self.signal(number)?;
        let status = loop {
            if let Some(status) = self.child.try_wait().context("waiting for flowmeter")? {
                break status;
            }
            ensure!(
                begin.elapsed() < STOP,
                "flowmeter did not end within {} s of {signal:?}",
                STOP.as_secs()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = begin.elapsed();
        self.finish_reading();
        Ok(Outcome { rows: Vec::new(), said: std::mem::take(&mut self.said), status, took })
    }

    /// Memory that the process has for itself and in common with the kernel, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
        Ok(kib << 10)
    }

    /// Waits for an end that comes by itself, such as a refusal.
    pub fn wait(mut self) -> Result<Outcome> {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().context("waiting for flowmeter")? {
                break status;
            }
            ensure!(begin.elapsed() < START, "flowmeter still runs after {} s", START.as_secs());
            std::thread::sleep(Duration::from_millis(5));
        };
        self.finish_reading();
        let rows = if self.log.exists() { read_log(&self.log)? } else { Vec::new() };
        Ok(Outcome { rows, said: std::mem::take(&mut self.said), status, took: begin.elapsed() })
    }

    fn finish_reading(&mut self) {
        if let Some(reader) = self.reader.take() {
            // The child has ended, so the pipe has an end.
            let _ = reader.join();
        }
        while let Ok(line) = self.lines.try_recv() {
            self.keep(line);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads a log's whole lines.
fn read_log(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("a line of the log is not JSON: {line}"))
        })
        .collect()
}

/// Runs `flowmeter` with these words to its end, outside of any namespace, and returns its output.
pub fn run(words: &[&std::ffi::OsStr]) -> Result<std::process::Output> {
    let binary = binary()?;
    std::process::Command::new(&binary)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", binary.display()))
}

/// The rows that `flowmeter pcap` writes for captures.
pub fn pcap_rows(captures: &[&Path], further: &[&str]) -> Result<Vec<Value>> {
    let mut words: Vec<&std::ffi::OsStr> = vec!["pcap".as_ref()];
    words.extend(captures.iter().map(|path| path.as_os_str()));
    words.extend(["--format", "jsonl", "--output", "-"].map(std::ffi::OsStr::new));
    words.extend(further.iter().map(std::ffi::OsStr::new));
    let output = run(&words)?;
    ensure!(
        output.status.success(),
        "flowmeter pcap failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8(output.stdout).context("the output of flowmeter pcap")?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("a line is not JSON: {line}")))
        .collect()
}
