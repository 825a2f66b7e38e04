//! The running agent of `flowmeter live`: built, wired, run and stopped here.
//!
//! ```text
//!  kernel programs      count packets in the table that they share with the agent
//!     |    |
//!     |    | ring of events: a checkpoint, a closing, no room
//!     v    v
//!  drain thread         polls every 2 to 20 ms; takes ended flows out, copies living ones
//!     |    |
//!     |    | queues: 4 batches of living flows, 16 of ended ones, 256 flows each; when full, flows wait in the table
//!     v    v
//!  pipeline thread      features, scores, log; its marks go back into the table, its heartbeat keeps them in force
//!     ^
//!     | 1 model
//!  reload thread        loads a model on SIGHUP, while the one before goes on scoring
//!
//!  main thread          signals, the lists, the interfaces twice a second, the programs' own messages
//! ```

mod delivery;
mod drain_task;
mod interfaces;
mod manager;
mod options;
mod output;
mod pipeline_task;
mod queues;
mod reload;
mod serve;
mod stats;
mod status;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinHandle};

use self::drain_task::DrainTask;
use self::interfaces::InterfaceWatch;
use self::manager::ServiceManager;
pub use self::options::Options;
use self::output::LogOutput;
use self::pipeline_task::PipelineTask;
use self::queues::{MAX_OUT, queues};
use self::reload::{ListReload, ModelReload, Reloads};
use self::serve::Listeners;
use self::stats::{Sources, report};
use self::status::Status;
use crate::config::{Format, LiveConfig, Mode};
use crate::context::{Context, Surroundings};
use crate::kernel::{
    self, Attachment, Counters, Heartbeat, Kernel, Loaded, SharedTable, TableSize, find_inspector,
    random_seed, refuse_stacked,
};
use crate::prefilter::Policy;
use crate::record::FlowRecord;
use crate::scoring::{Scorer, ScorerLoader};
use crate::sink::log_file::{LogStatus, check_writable};
use crate::source::live::{Drain, DrainCounts, Known};

/// Flows of the table with which it is tried whether the kernel takes the programs.
const SMALLEST_TABLE: u32 = 8;
/// How often the kernel programs' own messages are looked for.
const LOG_PERIOD: Duration = Duration::from_millis(200);
/// Exit code after a second signal, as shells give it for Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Watches until Ctrl-C or SIGTERM; `options` are those of `config`, and are read again at SIGHUP.
///
/// # Errors
/// Anything that keeps it from watching, or from writing the log; nothing stays attached.
pub fn run(config: &LiveConfig, options: Options) -> Result<ExitCode> {
    let parts = build(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(watch(parts, config, options))
}

/// Loads the kernel programs with a table of eight flows, and lets go of them: for `flowmeter doctor`.
///
/// # Errors
/// What `live` would find: the kernel refuses them, or they cannot be pinned.
pub fn try_load(config: &LiveConfig) -> Result<String> {
    let inspector = config.prefilter.inspector.as_deref().map(find_inspector).transpose()?;
    let policy = Policy::new(&config.prefilter, inspector);
    // Pins hold the settings of the agent that made them, and are left alone.
    let small = LiveConfig { max_flows: SMALLEST_TABLE, pin: None, ..config.clone() };
    Kernel::load(&small, &policy)?;
    if let Some(folder) = &config.pin {
        kernel::check_pins(folder)?;
    }
    Ok(match config.pin {
        Some(_) => "the kernel takes them, and pins them".to_owned(),
        None => "the kernel takes them".to_owned(),
    })
}

/// Looks whether the log can be written, and metrics be served: for `flowmeter doctor`.
///
/// # Errors
/// What `live` would find.
pub fn try_outputs(config: &LiveConfig) -> Result<String> {
    Listeners::open(config.metrics, config.socket.as_deref())?;
    check_writable(&config.log)?;
    Ok(match config.log.to_str() {
        Some("-") => "the standard output".to_owned(),
        _ => config.log.display().to_string(),
    })
}

/// The agent's parts, before anything is attached.
struct Parts {
    kernel: Kernel,
    counters: Counters,
    table: Arc<SharedTable>,
    drain: Drain,
    output: LogOutput,
    scorers: Option<ScorerLoader>,
    heartbeat: Arc<Heartbeat>,
    lists: ListReload,
    adopted: bool,
    policy: Policy,
    status: Arc<Status>,
    inspector: Option<(String, u32)>,
    listeners: Listeners,
}

/// Builds the parts. Everything that can be refused is refused here, before anything is attached.
fn build(config: &LiveConfig) -> Result<Parts> {
    kernel::require()?;
    let inspector = config.prefilter.inspector.as_deref().map(find_inspector).transpose()?;
    if config.prefilter.mode == Mode::Mirror
        && let Some(name) = &config.prefilter.inspector
    {
        refuse_stacked(name, &config.interfaces)?;
    }
    let listeners = Listeners::open(config.metrics, config.socket.as_deref())?;
    let policy = Policy::new(&config.prefilter, inspector);
    let inspector = config.prefilter.inspector.clone().zip(inspector);
    let Loaded { kernel, table, aggregates, ring, counters, heartbeat, lists, adopted } =
        Kernel::load(config, &policy)?;
    let heartbeat = Arc::new(heartbeat);
    let mut lists = ListReload::new(&config.prefilter, lists, Arc::clone(&heartbeat));
    lists.load()?;
    let scorers = config.scoring.as_ref().map(ScorerLoader::new).transpose()?;
    let scorer = scorers.as_ref().map(ScorerLoader::load_first).transpose()?.map(Scorer::explaining_in_time);
    let status = Arc::new(Status::default());
    let output = LogOutput::prepare(config, scorer, &status.log, policy.blocks_malicious())?;
    let context = match output.needs_context() {
        true => Some(Context::new(random_seed()?)),
        false => None,
    };
    let table = Arc::new(table);
    let mut drain = Drain::new(Arc::clone(&table), Arc::new(aggregates), ring, config.timeouts, context);
    if policy.mode() != Mode::Watch {
        drain.be_prompt();
    }
    if adopted {
        log::info!("adopted the flows that the previous agent left");
        drain.resume(heartbeat.ledger());
    }
    Ok(Parts {
        kernel,
        counters,
        table,
        drain,
        output,
        scorers,
        heartbeat,
        lists,
        adopted,
        policy,
        status,
        inspector,
        listeners,
    })
}

/// Wires the parts, attaches, runs until a signal comes or a thread fails, and stops.
async fn watch(parts: Parts, config: &LiveConfig, options: Options) -> Result<ExitCode> {
    let Parts { mut kernel, table, drain, output, heartbeat, lists, adopted, policy, status, .. } = parts;
    let manager = ServiceManager::new();
    let mut signals = Signals::listen()?;
    policy.lines().iter().for_each(|line| log::info!("{line}"));
    let context = output.needs_context();
    let attachments = kernel.attach()?;
    let pipeline = output.open()?;
    status.note("start", None, format!("flowmeter {} watches", env!("CARGO_PKG_VERSION")));
    if adopted {
        status.note("adoption", None, "adopted the flows that the previous agent left");
    }
    for attachment in &attachments {
        tell_attachment(attachment);
        status.note("attach", Some(&attachment.interface), format!("{} XDP", attachment.ingress));
    }
    tell_memory(table.size(), context)?;

    let (stop, leave) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (queues, received, depths) = queues();
    let (model, loaded) = ModelReload::new(parts.scorers, context);
    let counters = Arc::new(parts.counters);
    let sources = Sources {
        table,
        counters: Arc::clone(&counters),
        mode: policy.mode(),
        adopted,
        status: Arc::clone(&status),
        is_log: matches!(config.output.format, Format::Jsonl | Format::Eve | Format::Zeek),
    };
    status.start(depths);
    let _socket = parts.listeners.serve(&sources)?;
    let (noted, inspector) = (Arc::clone(&status), parts.inspector);
    let beats = Arc::clone(&heartbeat);
    let mut watch =
        InterfaceWatch::new(Arc::clone(&counters), beats, noted, inspector, config.exit_when_gone)?;
    let account = sources.clone();
    let stats_interval = Arc::new(AtomicU64::new(config.stats_interval.as_nanos() as u64));
    let beats = Arc::clone(&heartbeat);
    let mut write = PipelineTask { pipeline, loaded, heartbeat: beats, sources }.spawn(received);
    let (stops, leaves) = (Arc::clone(&stop), Arc::clone(&leave));
    let mut drain = DrainTask {
        drain,
        queues,
        stop: stops,
        leave: leaves,
        heartbeat,
        status: Arc::clone(&status),
        stats_interval: Arc::clone(&stats_interval),
    }
    .spawn();
    let mut reloads = Reloads {
        options,
        model,
        lists,
        stats_interval,
        status: Arc::clone(&status),
        manager: manager.clone(),
    };
    manager.ready();

    let mut manager_ticks = tokio::time::interval(manager.period());
    let mut log_ticks = tokio::time::interval(LOG_PERIOD);
    let mut looks = tokio::time::interval(interfaces::PERIOD);
    let outcome = loop {
        tokio::select! {
            _ = signals.interrupt.recv() => break Ok(None),
            _ = signals.terminate.recv() => {
                leave.store(config.pin.is_some(), Ordering::Release);
                break Ok(None);
            }
            _ = signals.hangup.recv() => reloads.reload(),
            ended = &mut drain => break Err(why_ended(ended, "taking flows out of the table")),
            ended = &mut write => break Err(why_ended(ended, "writing flows")),
            _ = log_ticks.tick() => kernel.flush_log(),
            _ = manager_ticks.tick() => manager.tick(&status),
            _ = looks.tick() => {
                if let Err(gone) = watch.look(&mut kernel) { break Ok(Some(gone)) }
                status.looked();
            }
        }
    };
    manager.stopping();
    status.note(
        "stop",
        None,
        if leave.load(Ordering::Acquire) { "flows are left to the next agent" } else { "told to stop" },
    );
    let leaves = leave.load(Ordering::Acquire);
    detach(&mut kernel, leaves)?;
    let gone = outcome?;
    stop.store(true, Ordering::Release);
    status.stop();
    let drained = tokio::select! {
        drained = finish(drain, write, leaves) => drained?,
        () = signals.again() => std::process::exit(INTERRUPTED),
    };
    let balanced = leaves || report(&account, drained)?;
    if let Some(error) = &gone {
        log::error!("{error:#}");
    }
    let well = is_whole(&status.log) && balanced && gone.is_none();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the log has all of its lines; says so if it has not.
fn is_whole(log: &LogStatus) -> bool {
    let lost = log.lost();
    if lost != 0 {
        log::error!("the log could not be written: {lost} lines of it are lost");
    }
    lost == 0
}

/// The signals that an operator sends.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?,
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            hangup: signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?,
        })
    }

    /// Waits for a second order to stop, while the first is being carried out.
    async fn again(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        log::error!("told to stop twice: what has not been written is lost");
    }
}

/// Says how an interface is watched.
fn tell_attachment(attachment: &Attachment) {
    log::info!(
        "{}: watching; {} XDP counts what comes in{}",
        attachment.interface,
        attachment.ingress,
        if attachment.egress { ", TC what goes out" } else { "; what goes out is not counted" }
    );
}

/// Says what memory it may need.
fn tell_memory(size: TableSize, context: bool) -> Result<()> {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let on_their_way =
        MAX_OUT * (size_of::<FlowRecord>() + if context { size_of::<Surroundings>() } else { 0 });
    log::info!(
        "memory: {:.0} MiB for {} flows and {:.0} MiB for aggregates, shared with the kernel; at most {:.0} MiB for \
         what is known of them and for those on their way to the log, and {:.0} MiB for what surrounds them. Ctrl-C or \
         SIGTERM writes out what lives and stops",
        mebibytes(size.bytes()),
        size.flows(),
        mebibytes(TableSize::for_aggregates()?.bytes()),
        mebibytes(on_their_way as u64 + u64::from(size.entries()) * size_of::<Known>() as u64),
        mebibytes(if context { Context::bytes() as u64 } else { 0 }),
    );
    Ok(())
}

/// Detaches, unless everything is left to the next agent.
fn detach(kernel: &mut Kernel, leaves: bool) -> Result<()> {
    if !leaves {
        kernel.detach()?;
    }
    kernel.flush_log();
    Ok(())
}

/// Waits until everything that is to be written is.
async fn finish(
    drain: JoinHandle<Result<DrainCounts>>,
    write: JoinHandle<Result<()>>,
    leaves: bool,
) -> Result<DrainCounts> {
    log::info!(
        "{}",
        match leaves {
            true => "leaving the living flows to the next agent",
            false => "detached; writing out the living flows",
        }
    );
    let drained = drain.await.context("the drain panicked")??;
    write.await.context("the pipeline panicked")??;
    Ok(drained)
}

fn why_ended<T>(ended: Result<Result<T>, JoinError>, doing: &str) -> anyhow::Error {
    match ended {
        Ok(Ok(_)) => anyhow!("{doing} ended by itself"),
        Ok(Err(error)) => error.context(format!("{doing} failed")),
        Err(error) => anyhow!("{doing} panicked: {error}"),
    }
}
