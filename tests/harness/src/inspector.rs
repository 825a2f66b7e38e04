//! An inspector behind FlowMeter: tcpdump on an interface, and packets that can be told apart in what it captures.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::frames::{Packet, Transport};
use crate::netns::Namespace;
use crate::replay::{Frame, read_capture};

/// Octets before a numbered packet's payload: Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// Comes before the number.
const MARK: &[u8; 8] = b"numbered";

/// A UDP datagram of so many bytes (IP length) with a number in it.
pub fn numbered(from: (&str, u16), to: (&str, u16), size: usize, number: u64) -> Frame {
    let mut payload = MARK.to_vec();
    payload.extend(number.to_be_bytes());
    payload.resize(size - (HEADERS - 14), 0);
    Frame::new(0, Packet::ipv4(from.0, to.0).with(Transport::udp(from.1, to.1).payload(payload)).build())
}

/// The number in a frame, if it is one of those.
pub fn number_of(frame: &[u8]) -> Option<u64> {
    let payload = frame.get(HEADERS..HEADERS + 16)?;
    let number = payload.strip_prefix(MARK)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

/// How long tcpdump may take to read what has come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// tcpdump on an interface; killed when dropped.
#[derive(Debug)]
pub struct Inspector {
    child: Child,
    lines: Receiver<String>,
    capture: PathBuf,
}

impl Inspector {
    /// Starts it in a namespace, and waits until it listens. Only what arrives is captured, or only what leaves.
    pub fn start(namespace: &Namespace, interface: &str, arriving: bool, capture: &Path) -> Result<Self> {
        let mut child = namespace
            .command("tcpdump")
            .args(["-i", interface, "-Z", "root", "--immediate-mode", "-U", "-B", "65536"])
            .args(["-Q", if arriving { "in" } else { "out" }, "-w"])
            .arg(capture)
            .arg("udp")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting tcpdump")?;
        let mut lines = BufReader::new(child.stderr.take().context("standard error is piped")?).lines();
        let mut said = String::new();
        while !said.contains("listening on") {
            let Some(line) = lines.next() else {
                let _ = child.wait();
                anyhow::bail!("tcpdump ended: {said}");
            };
            said.push_str(&line?);
        }
        // Read on, or it would stop at a full pipe.
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            lines.map_while(std::result::Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Self { child, lines: receiver, capture: capture.to_owned() })
    }

    /// Stops it, and returns the numbers of the packets that it has captured, each of which it must have but once.
    pub fn finish(mut self) -> Result<BTreeSet<u64>> {
        self.wait_read()?;
        self.signal(libc::SIGINT)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "tcpdump ended with {status}");
        let frames = read_capture(&self.capture)?;
        let numbers: Vec<u64> = frames.iter().filter_map(|frame| number_of(&frame.data)).collect();
        let set: BTreeSet<u64> = numbers.iter().copied().collect();
        ensure!(set.len() == numbers.len(), "{} packets were captured twice", numbers.len() - set.len());
        Ok(set)
    }

    /// Waits until it has read all that it was given, and nothing more comes: at its end it would leave the rest behind.
    ///
    /// "Received" counts both directions, "captured" the one that was asked for, so they need not be equal. What tells that
    /// it has read everything is that it sleeps.
    fn wait_read(&self) -> Result<()> {
        let (limit, mut before) = (Instant::now() + PATIENCE, None);
        loop {
            self.signal(libc::SIGUSR1)?;
            let said = self.lines.recv_timeout(PATIENCE).context("tcpdump does not say how far it is")?;
            let numbers: Vec<u64> =
                said.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse().ok()).collect();
            let [captured, received, dropped] = numbers[..] else { continue };
            ensure!(dropped == 0, "tcpdump itself lost {dropped} packets: its numbers mean nothing");
            std::thread::sleep(LOOK);
            let now = (captured, received);
            if before == Some(now) && self.sleeps()? {
                return Ok(());
            }
            ensure!(Instant::now() < limit, "tcpdump still reads: {captured} of {received} packets");
            before = Some(now);
        }
    }

    /// True if it waits for packets.
    fn sleeps(&self) -> Result<bool> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The state follows the name, which stands in parentheses.
        Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')))
    }

    fn signal(&self, number: libc::c_int) -> Result<()> {
        // SAFETY: no pointers; the child has not been waited for, so the number is still its own.
        let result = unsafe { libc::kill(self.child.id() as libc::pid_t, number) };
        ensure!(result == 0, "signalling tcpdump: {}", std::io::Error::last_os_error());
        Ok(())
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
