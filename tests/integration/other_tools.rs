//! Promise: what is written for other tools is what these read: Suricata's EVE, Zeek's conn.log, IPFIX.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::agent::{pcap_rows, run};
use harness::replay::write_capture;
use harness::{fixtures, require_program, sample_folder, samples};
use serde::Deserialize;
use serde_json::Value;

/// A line of EVE: what FlowMeter writes of Suricata's schema, and nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    timestamp: String,
    flow_id: u64,
    in_iface: Option<String>,
    pcap_filename: Option<String>,
    event_type: EventType,
    #[serde(default)]
    vlan: Vec<u16>,
    src_ip: std::net::IpAddr,
    src_port: Option<u16>,
    dest_ip: std::net::IpAddr,
    dest_port: Option<u16>,
    ip_v: u8,
    proto: String,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
    community_id: Option<String>,
    direction: Option<String>,
    tcp: Option<Tcp>,
    alert: Option<Alert>,
    flow: Counts,
    metadata: Option<Metadata>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum EventType {
    Flow,
    Alert,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Tcp {
    tcp_flags: String,
    tcp_flags_ts: String,
    tcp_flags_tc: String,
    syn: bool,
    fin: bool,
    rst: bool,
    psh: bool,
    ack: bool,
    urg: bool,
    ecn: bool,
    cwr: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    action: String,
    gid: u64,
    signature_id: u64,
    rev: u64,
    signature: String,
    category: String,
    severity: u8,
    metadata: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    pkts_toserver: u64,
    pkts_toclient: u64,
    bytes_toserver: u64,
    bytes_toclient: u64,
    start: Option<String>,
    end: Option<String>,
    age: Option<u64>,
    state: Option<String>,
    reason: Option<String>,
    alerted: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    flowbits: Vec<String>,
}

/// What `flowmeter pcap` prints in a format, and says.
fn printed(captures: &[PathBuf], format: &str, further: &[&str]) -> Result<(String, String)> {
    let mut words: Vec<&OsStr> = ["pcap", "--format", format, "--output", "-"].map(OsStr::new).to_vec();
    words.extend(further.iter().map(OsStr::new));
    words.extend(captures.iter().map(|path| path.as_os_str()));
    let output = run(&words)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "flowmeter pcap --format {format}: {said}");
    Ok((String::from_utf8(output.stdout)?, said))
}

fn events(text: &str) -> Result<Vec<Event>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// A fixture's capture, in a folder that is removed with it.
fn fixture(name: &str) -> Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("fixture.pcap");
    let fixture = fixtures::all().into_iter().find(|fixture| fixture.name == name);
    write_capture(&path, &fixture.with_context(|| name.to_owned())?.frames)?;
    Ok((folder, path))
}

/// A connection of ten packets, 3 ms apart: six there (40 bytes each and 300 of payload), four back (40 and 2,000).
const CONNECTION: &str = "a whole connection";

#[test]
fn a_known_flow_is_an_eve_event() -> Result<()> {
    let (_folder, capture) = fixture(CONNECTION)?;
    let (text, _) = printed(std::slice::from_ref(&capture), "eve", &["--no-model"])?;
    let events = events(&text)?;
    ensure!(events.len() == 1, "{text}");
    let Event { flow, tcp, .. } = &events[0];
    let event = &events[0];
    assert_eq!(event.event_type, EventType::Flow);
    assert_eq!(event.timestamp, "2023-11-14T22:13:20.027000+0000");
    assert!(event.flow_id < 1 << 53);
    assert_eq!((event.in_iface.as_deref(), event.pcap_filename.as_deref()), (None, capture.to_str()));
    assert_eq!((event.src_ip.to_string(), event.src_port), ("192.0.2.1".to_owned(), Some(40000)));
    assert_eq!((event.dest_ip.to_string(), event.dest_port), ("198.51.100.7".to_owned(), Some(443)));
    assert_eq!((event.ip_v, event.proto.as_str(), event.vlan.len()), (4, "TCP", 0));
    assert!(event.community_id.as_ref().is_some_and(|id| id.starts_with("1:")));
    assert!(event.metadata.is_none() && event.alert.is_none() && event.direction.is_none());
    assert_eq!((flow.pkts_toserver, flow.bytes_toserver), (6, 540));
    assert_eq!((flow.pkts_toclient, flow.bytes_toclient), (4, 2160));
    assert_eq!(flow.start.as_deref(), Some("2023-11-14T22:13:20.000000+0000"));
    assert_eq!(flow.end.as_deref(), Some("2023-11-14T22:13:20.027000+0000"));
    assert_eq!((flow.age, flow.alerted), (Some(0), Some(false)));
    // It has closed, and was still waiting for stray packets when the capture ended.
    assert_eq!((flow.state.as_deref(), flow.reason.as_deref()), (Some("closed"), Some("forced")));
    let flags = Tcp {
        tcp_flags: "1b".to_owned(),
        tcp_flags_ts: "1b".to_owned(),
        tcp_flags_tc: "1b".to_owned(),
        syn: true,
        fin: true,
        psh: true,
        ack: true,
        ..Tcp::default()
    };
    assert_eq!(tcp.as_ref(), Some(&flags));
    Ok(())
}

/// Every kind of packet that there is a fixture for: what has no ports, no Community ID or no answer included.
#[test]
fn every_fixture_is_valid_eve_with_the_sums_of_the_log() -> Result<()> {
    for fixture in fixtures::all() {
        let folder = tempfile::tempdir()?;
        let capture = folder.path().join("fixture.pcap");
        write_capture(&capture, &fixture.frames)?;
        let (text, _) = printed(std::slice::from_ref(&capture), "eve", &["--no-model"])?;
        let events = events(&text).context(fixture.name)?;
        let rows = pcap_rows(&[&capture], &["--no-model"])?;
        let rows: Vec<&Value> = rows.iter().filter(|row| row["event"] != "stats").collect();
        assert_eq!(events.len(), rows.len(), "{}", fixture.name);
        for (event, row) in events.iter().zip(rows) {
            let counts = &event.flow;
            assert_eq!(counts.pkts_toserver + counts.pkts_toclient, row["packets"], "{}", fixture.name);
            assert_eq!(counts.bytes_toserver + counts.bytes_toclient, row["bytes"], "{}", fixture.name);
            assert_eq!(event.community_id.as_deref(), row["community_id"].as_str(), "{}", fixture.name);
            let icmp = event.proto == "ICMP" || event.proto == "IPv6-ICMP";
            assert!(!icmp || event.src_port.is_none(), "{}: ICMP has no ports", fixture.name);
            assert_eq!(event.icmp_type.is_some(), event.icmp_code.is_some(), "{}", fixture.name);
        }
    }
    Ok(())
}

#[test]
fn a_malicious_flow_is_an_alert_and_a_scan_is_not_a_thousand() -> Result<()> {
    if harness::runtime().is_none() {
        return Ok(());
    }
    let capture = sample_folder().join("brute-ssh.pcap.zst");
    let (text, said) = printed(std::slice::from_ref(&capture), "eve", &[])?;
    let events = events(&text)?;
    let malicious = |event: &&Event| {
        event.metadata.as_ref().is_some_and(|metadata| metadata.flowbits == ["flowmeter.malicious"])
    };
    let (alerts, flows): (Vec<&Event>, Vec<&Event>) =
        events.iter().partition(|event| event.event_type == EventType::Alert);
    let found = flows.iter().copied().filter(malicious).count();
    assert!(found > 1, "{found} malicious flows");
    assert!(flows.iter().all(|event| event.flow.alerted == Some(malicious(event))));
    // Each is written, stands in another's metadata, or was left out when the capture ended.
    let left_out = found - alerts.len();
    assert!(!alerts.is_empty() && left_out > 0, "{} alerts of {found} malicious flows", alerts.len());
    assert!(said.contains(&format!("written, and {left_out} left out")), "{said}");
    for event in alerts {
        let alert = event.alert.as_ref().context("an alert has an alert")?;
        let flow = flows.iter().find(|flow| flow.flow_id == event.flow_id).context("its flow")?;
        assert_eq!(flow.community_id, event.community_id);
        assert_eq!((alert.gid, alert.signature_id, alert.rev), (1, 9_100_001, 1));
        assert_eq!((alert.action.as_str(), event.direction.as_deref()), ("allowed", Some("to_server")));
        assert!(
            (1..=3).contains(&alert.severity) && !alert.signature.is_empty() && !alert.category.is_empty()
        );
        let score: f64 = alert.metadata["flowmeter_score"][0].parse()?;
        let threshold: f64 = alert.metadata["flowmeter_threshold"][0].parse()?;
        assert!(score >= threshold, "{score} of {threshold}");
        assert_eq!(alert.metadata["flowmeter_model"].len(), 1);
        assert!(event.flow.end.is_none() && event.flow.start == flow.flow.start);
    }
    Ok(())
}

/// Reads a Zeek log as zeek-cut does: names by `#fields`, cells by `#separator`, unset ones by `#unset_field`.
fn read_zeek(text: &str) -> Result<Vec<HashMap<String, String>>> {
    let mut headers: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(header) = line.strip_prefix('#') {
            let mut words = header.split(['\t', ' ']);
            headers.insert(words.next().unwrap_or_default(), words.collect());
            continue;
        }
        ensure!(headers["separator"] == ["\\x09"], "the separator is {:?}", headers["separator"]);
        let (fields, types) = (&headers["fields"], &headers["types"]);
        let cells: Vec<&str> = line.split('\t').collect();
        ensure!(cells.len() == fields.len() && types.len() == fields.len(), "{line}");
        for ((field, kind), cell) in fields.iter().zip(types).zip(&cells) {
            let reads = *cell == headers["unset_field"][0]
                || match *kind {
                    "time" | "interval" => cell.split_once('.').is_some_and(|(_, digits)| digits.len() == 6),
                    "count" | "port" => cell.parse::<u64>().is_ok(),
                    "int" => cell.parse::<i64>().is_ok(),
                    "double" => cell.parse::<f64>().is_ok(),
                    "addr" => cell.parse::<std::net::IpAddr>().is_ok(),
                    "string" | "enum" => !cell.is_empty(),
                    _ => false,
                };
            ensure!(reads, "{field} is {cell:?}, no {kind}");
        }
        let set = fields.iter().zip(&cells).filter(|(_, cell)| **cell != headers["unset_field"][0]);
        rows.push(set.map(|(name, cell)| ((*name).to_owned(), (*cell).to_owned())).collect());
    }
    for name in ["separator", "set_separator", "empty_field", "unset_field", "path", "open", "close"] {
        ensure!(headers.contains_key(name), "there is no #{name}");
    }
    Ok(rows)
}

#[test]
fn a_known_flow_is_a_connection_of_zeek() -> Result<()> {
    let (_folder, capture) = fixture(CONNECTION)?;
    let (json, _) = printed(std::slice::from_ref(&capture), "zeek", &["--no-model"])?;
    let row: Value = serde_json::from_str(&json)?;
    let uid = row["uid"].as_str().context("a uid")?.to_owned();
    assert!(
        uid.len() == 18 && uid.starts_with('C') && uid.chars().all(|c| c.is_ascii_alphanumeric()),
        "{uid}"
    );
    let community_id = row["community_id"].clone();
    let expected = serde_json::json!({
        "ts": 1_700_000_000.0, "uid": uid,
        "id.orig_h": "192.0.2.1", "id.orig_p": 40000, "id.resp_h": "198.51.100.7", "id.resp_p": 443,
        "proto": "tcp", "ip_proto": 6, "duration": 0.027, "conn_state": "SF",
        "orig_bytes": 300, "resp_bytes": 2000,
        "orig_pkts": 6, "orig_ip_bytes": 540, "resp_pkts": 4, "resp_ip_bytes": 2160,
        "community_id": community_id,
    });
    assert_eq!(row, expected);
    let (text, _) = printed(std::slice::from_ref(&capture), "zeek-tsv", &["--no-model"])?;
    assert!(
        text.contains("#open\t2023-11-14-22-13-20\n") && text.ends_with("#close\t2023-11-14-22-13-20\n"),
        "{text}"
    );
    let rows = read_zeek(&text)?;
    assert_eq!((rows.len(), rows[0]["ts"].as_str()), (1, "1700000000.000000"));
    assert_eq!(rows[0]["duration"], "0.027000");
    Ok(())
}

#[test]
fn both_forms_of_conn_log_hold_the_same_and_what_the_log_holds() -> Result<()> {
    if harness::runtime().is_none() {
        return Ok(());
    }
    let samples = samples()?;
    let table = read_zeek(&printed(&samples, "zeek-tsv", &[])?.0)?;
    let json: Vec<BTreeMap<String, Value>> = printed(&samples, "zeek", &[])?
        .0
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    let paths: Vec<&Path> = samples.iter().map(PathBuf::as_path).collect();
    let log: Vec<Value> = pcap_rows(&paths, &[])?.into_iter().filter(|row| row["event"] != "stats").collect();
    assert!(log.len() > 1000 && table.len() == log.len() && json.len() == log.len(), "{} flows", log.len());
    for ((cells, values), row) in table.iter().zip(&json).zip(&log) {
        let named: Vec<&String> = values.keys().collect();
        let mut set: Vec<&String> = cells.keys().collect();
        set.sort();
        assert_eq!(set, named);
        for (name, value) in values {
            let same = match value {
                Value::String(text) => *text == cells[name],
                number => number.as_f64() == cells[name].parse().ok(),
            };
            assert!(same, "{name}: {value} and {}", cells[name]);
        }
        assert_eq!(values["flowmeter_verdict"], row["verdict"]);
        assert_eq!(values["flowmeter_score"], row["score"]);
        assert_eq!(values["orig_pkts"], row["forward_packets"]);
        assert_eq!(values["resp_ip_bytes"], row["backward_bytes"]);
        assert_eq!(values.get("community_id").and_then(Value::as_str), row["community_id"].as_str());
    }
    Ok(())
}

/// Suricata's and Zeek's formats alike: one identifier a flow.
#[test]
fn no_two_flows_have_one_identifier() -> Result<()> {
    let samples = samples()?;
    let events = events(&printed(&samples, "eve", &["--no-model"])?.0)?;
    let ids: std::collections::HashSet<u64> = events.iter().map(|event| event.flow_id).collect();
    assert_eq!(ids.len(), events.len());
    let (json, _) = printed(&samples, "zeek", &["--no-model"])?;
    let uids: std::collections::HashSet<String> = json
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["uid"].to_string()))
        .collect::<Result<_>>()?;
    assert_eq!(uids.len(), events.len());
    Ok(())
}

/// A free port of loopback.
fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()?.port())
}

/// nfcapd, nfdump's collector, ended when dropped.
struct Nfcapd {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Nfcapd {
    fn start() -> Result<Self> {
        let (folder, port) = (tempfile::tempdir()?, free_port()?);
        let child = Command::new("nfcapd")
            .args(["-b", "127.0.0.1", "-t", "3600", "-B", "4000000", "-p"])
            .arg(port.to_string())
            .arg("-w")
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting nfcapd")?;
        let started = Self { child, folder, port };
        // It listens when the kernel knows its socket: address 127.0.0.1 and the port, in hexadecimal.
        let socket = format!("0100007F:{port:04X} ");
        let limit = Instant::now() + Duration::from_secs(20);
        while !std::fs::read_to_string("/proc/net/udp")?.contains(&socket) {
            ensure!(Instant::now() < limit, "nfcapd does not listen on port {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(started)
    }

    /// Ends it, and returns nfdump's words about what it has taken.
    fn end(mut self) -> Result<String> {
        // What has come is in its socket's buffer; it is empty when the kernel says so.
        let socket = format!("0100007F:{:04X} ", self.port);
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let sockets = std::fs::read_to_string("/proc/net/udp")?;
            let line = sockets.lines().find(|line| line.contains(&socket)).context("nfcapd has gone")?;
            let queues = line.split_ascii_whitespace().nth(4).unwrap_or_default();
            if queues.ends_with(":00000000") {
                break;
            }
            ensure!(Instant::now() < limit, "nfcapd does not read: {line}");
            std::thread::sleep(Duration::from_millis(20));
        }
        // SAFETY: no pointers; the child has not been waited for.
        let sent = unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        ensure!(sent == 0, "signalling nfcapd: {}", std::io::Error::last_os_error());
        self.child.wait()?;
        let output = Command::new("nfdump").arg("-I").arg("-R").arg(self.folder.path()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Nfcapd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Flows, packets and bytes of both directions, and what it complains of, are the log's own sums.
#[test]
fn nfcapd_takes_every_flow() -> Result<()> {
    if !require_program("nfcapd") || !require_program("nfdump") {
        return Ok(());
    }
    let samples = samples()?;
    let collector = Nfcapd::start()?;
    let target = format!("udp://127.0.0.1:{}", collector.port);
    // The log is written beside the export.
    let (text, said) = printed(&samples, "jsonl", &["--no-model", "--ipfix", &target])?;
    let counted = collector.end()?;
    let rows: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let rows: Vec<&Value> = rows.iter().filter(|row| row["event"] != "stats").collect();
    let sum = |name: &str| rows.iter().filter_map(|row| row[name].as_u64()).sum::<u64>();
    assert!(said.contains(&format!("{} flows exported, 0 lost", rows.len())), "{said}");
    for (name, expected) in [
        ("Flows", rows.len() as u64),
        ("Packets", sum("packets")),
        ("Bytes", sum("bytes")),
        ("Sequence failures", 0),
    ] {
        let found = counted.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        match found.map(str::trim).map(str::parse::<u64>) {
            Some(Ok(found)) => assert_eq!(found, expected, "{name}:\n{counted}"),
            _ => bail!("nfdump does not say {name}:\n{counted}"),
        }
    }
    Ok(())
}

/// Nobody listens, or somebody does not read: the log is whole, and the loss is said.
#[test]
fn a_collector_that_is_away_or_hangs_costs_the_log_nothing() -> Result<()> {
    let capture = sample_folder().join("ntp-clocks.pcap.zst");
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let hangs = format!("tcp://{}", listener.local_addr()?);
    let away = format!("tcp://127.0.0.1:{}", {
        // Bound and given back: nobody listens there.
        let gone = std::net::TcpListener::bind("127.0.0.1:0")?;
        gone.local_addr()?.port()
    });
    let further = ["--no-model", "--ipfix", &away, "--ipfix", &hangs];
    let (text, said) = printed(std::slice::from_ref(&capture), "jsonl", &further)?;
    assert_eq!(text.matches("\"event\":\"flow\"").count(), 5, "{text}");
    assert!(said.contains(&format!("{away}: 0 flows exported, 5 lost")), "{said}");
    assert!(said.contains(&format!("{hangs}: 5 flows exported, 0 lost")), "{said}");
    Ok(())
}

#[test]
fn a_collector_that_is_named_wrongly_is_refused_before_anything_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("flows.jsonl");
    let capture = sample_folder().join("ntp-clocks.pcap.zst");
    let words: [&OsStr; 7] = [
        "pcap".as_ref(),
        capture.as_ref(),
        "--no-model".as_ref(),
        "--output".as_ref(),
        output.as_ref(),
        "--ipfix".as_ref(),
        "192.0.2.1:4739".as_ref(),
    ];
    let done = run(&words)?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && said.contains("expected udp://ADDRESS:PORT"), "{said}");
    assert!(!output.exists());
    Ok(())
}
