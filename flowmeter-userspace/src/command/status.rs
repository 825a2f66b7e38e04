//! `flowmeter status`: how a running agent is, asked at its Unix socket.

use std::io::{self, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cli::StatusArgs;
use crate::metrics::NUMBERS;

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints the agent's numbers; the exit code says whether it is ready.
///
/// # Errors
/// No agent answers there.
pub fn run(args: &StatusArgs) -> Result<ExitCode> {
    let text = ask(&args.socket, "/stats")?;
    let line: Value = serde_json::from_str(&text).context("the agent's answer is no JSON")?;
    let mut out = io::stdout().lock();
    if args.json {
        write!(out, "{text}").context("cannot write")?;
    } else {
        print(&mut out, &line).context("cannot write")?;
        if line["agent"]["ready"] == false {
            write!(out, "\nnot ready: {}", ask_whatever(&args.socket, "/readyz")?.1)
                .context("cannot write")?;
        }
    }
    Ok(if line["agent"]["ready"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks for a page that there is.
fn ask(socket: &Path, page: &str) -> Result<String> {
    match ask_whatever(socket, page)? {
        (200, body) => Ok(body),
        (status, body) => bail!("the agent answers {status}: {}", body.trim_end()),
    }
}

/// Asks for a page: the status and what it says.
fn ask_whatever(socket: &Path, page: &str) -> Result<(u16, String)> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!("no agent answers at {shown}; start one with `flowmeter live --socket {shown}`, or name its socket with --socket")
    })?;
    let mut talk = || -> io::Result<String> {
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {page} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = talk().with_context(|| format!("the agent at {shown} does not answer"))?;
    let read = || {
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    };
    read().with_context(|| format!("what answers at {shown} is no agent"))
}

/// A line for each number that the agent has.
fn print(out: &mut impl Write, line: &Value) -> io::Result<()> {
    for number in NUMBERS {
        for found in number.find(line) {
            let shown = match found.value {
                Value::Object(_) | Value::Array(_) => continue,
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            let space = if number.unit.is_empty() { "" } else { " " };
            writeln!(out, "{:<56} {shown}{space}{}", found.place, number.unit)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_printed_with_their_place_and_unit() {
        let line =
            json!({"agent": {"uptime": 1.5}, "interfaces": [{"interface": "eth0", "seen": 7, "link": "up"}]});
        let mut out = Vec::new();
        print(&mut out, &line).expect("room");
        let text = String::from_utf8(out).expect("text");
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words,
            [
                vec!["agent.uptime", "1.5", "s"],
                vec!["interfaces.eth0.seen", "7", "packets"],
                vec!["interfaces.eth0.link", "up"]
            ]
        );
    }
}
