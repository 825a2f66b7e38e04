//! Promise: SIGHUP loads another model while traffic passes, without losing or changing a flow; one that breaks the contract is
//! refused, and the one that there is goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::agent::{Agent, Signal};
use harness::frames::{Packet, Transport};
use harness::netns::{Chatter, Namespace, Offload};
use harness::replay::{Frame, Oversized, Pace, Sender};
use harness::{example_model, machine, row};
use serde_json::Value;

/// Flows whose packets are sent again and again, under new ports each time.
const FLOWS: u16 = 200;
/// Packets of each: two checkpoints are reached.
const PACKETS: u64 = 16;
/// How long something may take to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Packets of `FLOWS` flows in turn, over about a tenth of a second.
fn round(number: u16) -> Vec<Frame> {
    let mut frames = Vec::new();
    for packet in 0..PACKETS {
        for flow in 0..FLOWS {
            let client = format!("10.9.{}.{}", number / 250, number % 250 + 1);
            let udp = Transport::udp(1024 + flow, 53).payload(vec![0; usize::from(flow)]);
            let at = packet * 6_000_000 + u64::from(flow) * 30_000;
            frames.push(Frame::new(at, Packet::ipv4(&client, "10.9.200.1").with(udp).build()));
        }
    }
    frames
}

/// Puts a file in place of another, whole.
fn replace(content: &[u8], path: &Path) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, content)?;
    Ok(std::fs::rename(new, path)?)
}

/// Waits until the log has a flow or verdict by this model.
fn wait_for_model(agent: &Agent, name: &str) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    while !agent.rows()?.iter().any(|row| row["model"] == name) {
        ensure!(Instant::now() < limit, "nothing was scored by {name} within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn another_model_takes_over_under_traffic_and_a_bad_one_does_not() -> Result<()> {
    let Some(_machine) = machine::shared("a model is loaded under traffic") else {
        return Ok(());
    };
    let (sends, watches) = (Namespace::new("sends")?, Namespace::new("watches")?);
    sends.join("out", &watches, "in", Chatter::None, Offload::Off)?;
    let folder = tempfile::tempdir()?;
    let (log, model) = (folder.path().join("log"), folder.path().join("model.onnx"));
    let example = |kind: &str| std::fs::read(example_model(kind));
    replace(&example("lightgbm")?, &model)?;
    let words = ["--model", &model.to_string_lossy(), "--stats-interval", "200ms", "--idle-timeout", "1s"];
    let mut agent = Agent::start(&watches, &["in"], &log, &words)?;

    let stop = AtomicBool::new(false);
    let (outcome, rounds) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<u16> {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                sends.run(|| {
                    let sender = Sender::open("out")?;
                    sender.send(&round(rounds), Pace::Times(1.0), Oversized::Refuse, &AtomicBool::new(false))
                })??;
                rounds += 1;
            }
            Ok(rounds)
        });
        let outcome = (|| -> Result<_> {
            wait_for_model(&agent, "lightgbm")?;
            // Of another feature set, by another library.
            replace(&example("xgboost")?, &model)?;
            agent.signal(libc::SIGHUP)?;
            wait_for_model(&agent, "xgboost")?;
            let broken = example("pytorch")?;
            replace(&broken[..broken.len() / 2], &model)?;
            agent.signal(libc::SIGHUP)?;
            let refused = agent.wait_said("is refused, and the model in use goes on")?;
            replace(&example("scikit-learn")?, &model)?;
            agent.signal(libc::SIGHUP)?;
            wait_for_model(&agent, "scikit-learn")?;
            Ok(refused)
        })();
        stop.store(true, Ordering::Relaxed);
        let rounds = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (outcome, rounds)
    });
    let (refused, rounds) = (outcome?, rounds?);
    watches.wait_received("in", u64::from(rounds) * u64::from(FLOWS) * PACKETS)?;
    let outcome = agent.stop(Signal::Terminate)?;
    outcome.expect_clean()?;
    assert!(refused.contains("ERROR") && refused.contains("model.onnx"), "{refused}");

    let stats = outcome.stats()?;
    let sent = u64::from(rounds) * u64::from(FLOWS) * PACKETS;
    assert_eq!(row::identity(stats)?.seen, sent, "{stats}");
    // Each flow once, whole, with a verdict; by one model after the other.
    let mut flows = BTreeMap::new();
    for flow in outcome.flows() {
        let name = (flow["src_ip"].to_string(), flow["src_port"].to_string());
        assert!(flows.insert(name, ()).is_none(), "twice: {flow}");
        assert_eq!(row::number(flow, "packets")?, PACKETS, "{flow}");
        assert_ne!(flow["verdict"], "none", "{flow}");
    }
    assert_eq!(flows.len() as u64, u64::from(rounds) * u64::from(FLOWS));
    let mut models: Vec<&str> = outcome.rows.iter().filter_map(|row| row["model"].as_str()).collect();
    models.dedup();
    assert_eq!(models, ["lightgbm", "xgboost", "scikit-learn"]);

    assert_eq!(stats["pipeline"]["not_scored"], 0, "{stats}");
    let scoring = &stats["scoring"];
    let scored = row::number(&stats["pipeline"], "checkpoints")? + flows.len() as u64;
    assert_eq!(row::number(scoring, "rows")?, scored, "{scoring}");
    assert!(scoring["rows_per_second"].as_f64() > Some(0.0), "{scoring}");
    let delays = |name: &str| -> u64 {
        let all = outcome.rows.iter().filter(|row| row["event"] == "stats").map(|row| &row["scoring"][name]);
        all.inspect(|delay| assert!(ordered(delay), "{name}: {delay}"))
            .filter_map(|d| d["count"].as_u64())
            .sum()
    };
    assert_eq!(delays("end_delay_ms"), flows.len() as u64);
    assert_eq!(delays("checkpoint_delay_ms"), row::number(&stats["pipeline"], "checkpoints")?);
    assert!(row::number(&stats["drift"], "flows")? > 0, "the last model has seen flows: {stats}");
    Ok(())
}

/// True if no part of the delays is longer than one that must be longer.
fn ordered(delay: &Value) -> bool {
    let [p50, p99, max] = ["p50", "p99", "max"].map(|name| delay[name].as_f64().unwrap_or(f64::NAN));
    0.0 <= p50 && p50 <= p99 && p99 <= max
}
