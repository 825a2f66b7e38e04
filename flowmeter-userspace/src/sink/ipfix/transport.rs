//! How messages get to the collector: a session over UDP or TCP, begun again when it breaks.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};

use super::encode::IpfixMessage;
use super::{ExportCounts, Queued};
use crate::config::{Target, Transport};

/// How often templates are sent again over UDP, where the collector may have begun after us (RFC 7011 section 8.4).
const RESEND_TEMPLATES: Duration = Duration::from_secs(60);
/// How long connecting, and writing a message, may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long after a failure it is tried again; meanwhile records are lost.
const RETRY: Duration = Duration::from_secs(1);

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// What the collector has been told over one socket.
struct Open {
    socket: Socket,
    /// Record number that the sequence of this session counts from.
    base: u64,
    templates_sent: Option<Instant>,
}

/// The way to a collector.
pub struct Session {
    target: Target,
    open: Option<Open>,
    /// Not before this it is tried again.
    retry_at: Option<Instant>,
    /// Whether it was said last that the collector takes what is sent.
    well: Option<bool>,
    counts: Arc<ExportCounts>,
}

impl Session {
    /// A way to `target`; nothing is sent yet.
    ///
    /// # Errors
    /// The name is unknown.
    pub fn new(target: &Target, counts: Arc<ExportCounts>) -> Result<Self> {
        address(target).with_context(|| format!("--ipfix {target}: the address cannot be found"))?;
        Ok(Self { target: target.clone(), open: None, retry_at: None, well: None, counts })
    }

    /// Sends a message, or counts its records as lost.
    pub fn send(&mut self, queued: Queued) {
        let records = u64::from(queued.message.records);
        match self.try_send(queued) {
            Ok(()) => {
                self.counts.sent.fetch_add(records, Ordering::Relaxed);
                if self.well != Some(true) {
                    self.well = Some(true);
                    log::info!("exporting flows to {}", self.target);
                }
            }
            Err(problem) => {
                self.counts.refused.fetch_add(records, Ordering::Relaxed);
                if self.well != Some(false) {
                    self.well = Some(false);
                    log::warn!(
                        "{}: {problem}; flows are not exported until it takes them, and counted as lost",
                        self.target
                    );
                }
            }
        }
    }

    fn try_send(&mut self, queued: Queued) -> io::Result<()> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let sent = self.send_at_once(queued);
        let failed = sent.is_err();
        self.retry_at = failed.then(|| Instant::now() + RETRY);
        // A stream that has taken half of a message cannot go on. A socket of datagrams can, and so can its sequence.
        if failed && self.target.transport == Transport::Tcp {
            self.open = None;
        }
        // A collector that was away has forgotten the templates.
        if failed && let Some(open) = &mut self.open {
            open.templates_sent = None;
        }
        sent
    }

    fn send_at_once(&mut self, Queued { mut message, first }: Queued) -> io::Result<()> {
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                // A datagram socket that could not be had before has lost what came since; a stream's sequence begins anew.
                let base = if self.target.transport == Transport::Udp { 0 } else { first };
                none.insert(Open { socket: connect(&self.target)?, base, templates_sent: None })
            }
        };
        let sequence = (first - open.base) as u32;
        let again = match open.socket {
            Socket::Udp(_) => open.templates_sent.is_none_or(|at| at.elapsed() >= RESEND_TEMPLATES),
            Socket::Tcp(_) => open.templates_sent.is_none(),
        };
        if again {
            open.write(IpfixMessage::templates().seal(sequence, now()))?;
            open.templates_sent = Some(Instant::now());
        }
        open.write(message.seal(sequence, now()))
    }
}

impl Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.socket {
            Socket::Udp(socket) => socket.send(bytes).map(drop),
            Socket::Tcp(stream) => stream.write_all(bytes),
        }
    }
}

fn connect(target: &Target) -> io::Result<Socket> {
    let address = address(target)?;
    match target.transport {
        Transport::Udp => {
            let any: SocketAddr =
                if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            socket.set_write_timeout(Some(TIMEOUT))?;
            Ok(Socket::Udp(socket))
        }
        Transport::Tcp => {
            let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(Socket::Tcp(stream))
        }
    }
}

/// The target's first address, as it is known now.
fn address(target: &Target) -> io::Result<SocketAddr> {
    let mut found = (target.host.as_str(), target.port).to_socket_addrs()?;
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// Seconds since the Unix epoch, as an IPFIX header has them: modulo 2^32, until 2106.
fn now() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    fn message(records: u32) -> IpfixMessage {
        let mut message = IpfixMessage::templates();
        message.records = records;
        message
    }

    /// A session to a socket of ours.
    fn session(transport: Transport, port: u16) -> (Session, Arc<ExportCounts>) {
        let counts = Arc::new(ExportCounts::default());
        let target = Target { transport, host: "127.0.0.1".to_owned(), port };
        (Session::new(&target, Arc::clone(&counts)).expect("an address"), counts)
    }

    /// Sequence number of the message at the beginning of `bytes`, and what follows it.
    fn split(bytes: &[u8]) -> (u32, &[u8]) {
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        (u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]), &bytes[length..])
    }

    #[test]
    fn datagrams_begin_with_the_templates_and_show_what_was_lost_before() {
        let collector = UdpSocket::bind("127.0.0.1:0").expect("a port");
        collector.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let (mut session, counts) = session(Transport::Udp, collector.local_addr().expect("a port").port());
        // Five records before these found the queue full.
        session.send(Queued { message: message(7), first: 5 });
        session.send(Queued { message: message(1), first: 12 });
        let mut bytes = [0; 2000];
        for (what, expected) in [("templates", 5), ("the first", 5), ("the second", 12)] {
            let length = collector.recv(&mut bytes).expect(what);
            let (sequence, rest) = split(&bytes[..length]);
            assert_eq!((sequence, rest.len()), (expected, 0), "{what}");
        }
        assert_eq!(counts.sent.load(Ordering::Relaxed), 8);
        // A minute later the templates come again.
        let open = session.open.as_mut().expect("a session");
        open.templates_sent = Instant::now().checked_sub(RESEND_TEMPLATES);
        session.send(Queued { message: message(2), first: 13 });
        for what in ["templates again", "the third"] {
            let length = collector.recv(&mut bytes).expect(what);
            assert_eq!(split(&bytes[..length]).0, 13, "{what}");
        }
    }

    #[test]
    fn a_stream_that_breaks_begins_anew_with_templates_and_its_losses_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (mut session, counts) = session(Transport::Tcp, listener.local_addr().expect("a port").port());
        session.send(Queued { message: message(3), first: 0 });
        let (stream, _) = listener.accept().expect("a connection");
        drop(stream);
        // The system takes some before it learns that nobody reads.
        let mut first = 3;
        let limit = Instant::now() + Duration::from_secs(20);
        while counts.refused.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < limit, "the broken stream was not noticed");
            session.send(Queued { message: message(1), first });
            first += 1;
        }
        // It is tried again after a while, and what comes until then is lost.
        session.send(Queued { message: message(1), first });
        first += 1;
        session.retry_at = None;
        session.send(Queued { message: message(4), first });
        session.send(Queued { message: message(1), first: first + 4 });
        let (mut stream, _) = listener.accept().expect("another connection");
        drop(session);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("what was sent");
        let (templates, rest) = split(&bytes);
        let (data, rest) = split(rest);
        let (next, rest) = split(rest);
        assert_eq!((templates, data, next, rest.len()), (0, 0, 4, 0));
        let (sent, refused) = (counts.sent.load(Ordering::Relaxed), counts.refused.load(Ordering::Relaxed));
        assert_eq!(sent + refused, first + 5, "each record is sent or lost");
        assert!(refused >= 2);
    }
}
