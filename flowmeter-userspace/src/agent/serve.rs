//! Serves metrics, health and the latest numbers by HTTP: to Prometheus by TCP, to `flowmeter status` by a Unix socket.
//!
//! A scrape reads the counters itself. Neither drain nor pipeline waits for one, and one that stalls is cut off.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as BlockingTcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as BlockingUnixListener, UnixStream as BlockingUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::stats::Sources;
use crate::metrics;

/// Most bytes of a request.
const MAX_REQUEST: usize = 8192;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients at once.
const MAX_CLIENTS: usize = 16;
/// How long to wait after a client could not be accepted, for want of file descriptors for instance.
const PAUSE: Duration = Duration::from_millis(100);
/// What is served.
const PAGES: &str = "/metrics  /healthz  /readyz  /stats\n";

/// Where it listens. The socket's file is removed with it.
#[derive(Debug, Default)]
pub struct Listeners {
    tcp: Option<BlockingTcpListener>,
    unix: Option<(BlockingUnixListener, SocketFile)>,
}

/// A Unix socket's file.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Listeners {
    /// Listens there; nobody is answered yet.
    ///
    /// # Errors
    /// Somebody else listens there, or it is not allowed.
    pub fn open(metrics: Option<SocketAddr>, socket: Option<&Path>) -> Result<Self> {
        let tcp = metrics.map(|address| {
            let listener = BlockingTcpListener::bind(address).with_context(|| {
                format!("cannot serve metrics at {address}; name another address with --metrics")
            })?;
            listener.set_nonblocking(true).context("cannot serve metrics")?;
            log::info!("metrics: http://{}/metrics", listener.local_addr().unwrap_or(address));
            anyhow::Ok(listener)
        });
        Ok(Self { tcp: tcp.transpose()?, unix: socket.map(open_socket).transpose()? })
    }

    /// Answers, until the runtime ends.
    ///
    /// # Errors
    /// The runtime does not take the sockets.
    pub fn serve(self, sources: &Sources) -> Result<Option<impl Drop + use<>>> {
        let room = Arc::new(Semaphore::new(MAX_CLIENTS));
        if let Some(listener) = self.tcp {
            let listener = TcpListener::from_std(listener).context("cannot serve metrics")?;
            let (sources, room) = (sources.clone(), Arc::clone(&room));
            tokio::spawn(async move {
                loop {
                    take(listener.accept().await.map(|(stream, _)| stream), &sources, &room).await;
                }
            });
        }
        let Some((listener, file)) = self.unix else { return Ok(None) };
        let listener = UnixListener::from_std(listener).context("cannot serve at the socket")?;
        let sources = sources.clone();
        tokio::spawn(async move {
            loop {
                take(listener.accept().await.map(|(stream, _)| stream), &sources, &room).await;
            }
        });
        Ok(Some(file))
    }
}

/// Listens at a Unix socket; one that an agent left which died is replaced.
fn open_socket(path: &Path) -> Result<(BlockingUnixListener, SocketFile)> {
    let name = path.display();
    if let Ok(found) = fs::symlink_metadata(path) {
        ensure!(
            found.file_type().is_socket(),
            "{name} is there and is not a socket; name another file with --socket"
        );
        if BlockingUnixStream::connect(path).is_ok() {
            bail!("another process answers at {name}; stop it first, or name another file with --socket");
        }
        fs::remove_file(path).with_context(|| format!("cannot replace {name}, which a dead process left"))?;
    }
    let listener = BlockingUnixListener::bind(path).with_context(|| format!("cannot listen at {name}"))?;
    let file = SocketFile(path.to_owned());
    // The numbers of a network are not for everybody.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot listen at {name}"))?;
    listener.set_nonblocking(true).with_context(|| format!("cannot listen at {name}"))?;
    Ok((listener, file))
}

/// Answers a client on a task of its own, once there is room for it.
async fn take<S>(stream: io::Result<S>, sources: &Sources, room: &Arc<Semaphore>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Ok(mut stream) = stream else { return tokio::time::sleep(PAUSE).await };
    // The semaphore is never closed.
    let Ok(place) = Arc::clone(room).acquire_owned().await else { return };
    let sources = sources.clone();
    tokio::spawn(async move {
        // A client that goes, or is slow, has itself to blame.
        let _ = tokio::time::timeout(PATIENCE, answer(&mut stream, sources)).await;
        drop(place);
    });
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, sources: Sources) -> io::Result<()> {
    let request = read_request(stream).await?;
    let mut words = request.split_ascii_whitespace();
    let (method, target) =
        (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let page = match method.as_str() {
        // Counters are read by system calls.
        "GET" | "HEAD" => {
            tokio::task::spawn_blocking(move || page(&path, &sources)).await.map_err(io::Error::other)?
        }
        "" => Page::text("400 Bad Request", "not HTTP\n".to_owned()),
        _ => Page::text("405 Method Not Allowed", "only GET and HEAD\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        page.status,
        page.content_type,
        page.body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(page.body.as_bytes()).await?;
    }
    stream.shutdown().await
}

/// The head of a request.
async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut request = Vec::new();
    while request.len() < MAX_REQUEST && !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut some = [0; 1024];
        match stream.read(&mut some).await? {
            0 => break,
            bytes => request.extend_from_slice(&some[..bytes]),
        }
    }
    Ok(String::from_utf8_lossy(&request).into_owned())
}

/// What is answered.
struct Page {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Page {
    fn text(status: &'static str, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }

    /// Well, or what is wrong, a line each.
    fn health(problems: &[String]) -> Self {
        match problems {
            [] => Self::text("200 OK", "ok\n".to_owned()),
            problems => Self::text("503 Service Unavailable", problems.join("\n") + "\n"),
        }
    }
}

fn page(path: &str, sources: &Sources) -> Page {
    let failed = |error: anyhow::Error| Page::text("500 Internal Server Error", format!("{error:#}\n"));
    match path {
        "/metrics" => match sources.now().and_then(|stats| metrics::encode(&stats)) {
            Ok(body) => Page { status: "200 OK", content_type: metrics::CONTENT_TYPE, body },
            Err(error) => failed(error),
        },
        "/stats" => match sources.now().and_then(|stats| Ok(serde_json::to_string(&stats)? + "\n")) {
            Ok(body) => Page { status: "200 OK", content_type: "application/json", body },
            Err(error) => failed(error),
        },
        "/healthz" => Page::health(&sources.status.ailments()),
        "/readyz" => Page::health(&sources.status.obstacles()),
        "/" => Page::text("200 OK", PAGES.to_owned()),
        _ => Page::text("404 Not Found", format!("there is no such page; there are {PAGES}")),
    }
}
