//! `flowmeter live`: interfaces to flows and verdicts, until told to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use flowmeter_common::reaction::BEAT_EVERY;
use flowmeter_common::table::Memory as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{feature_set, judge};
use crate::cli::{Format, Live, Reacting, Writing};
use crate::context::Context;
use crate::kernel::{
    self, Counters, Heart, Kernel, ListMaps, Loaded, Settings, SharedTable, TableSize, clock,
};
use crate::pipeline::{Feedback, Pipeline};
use crate::reaction::{Marker, Mode, Policy, lists};
use crate::record::{FlowRecord, Stage};
use crate::sink::{self, table::Extent};
use crate::source::live::{BATCH, Harvested, Harvester, Known};
use crate::stats::{Account, FlowCounts, PipelineCounts, Reacted, Stats};

/// Batches between harvest and pipeline; when they are all taken, flows wait in the table.
const QUEUE: usize = 4;
/// Batches that exist at once: those, the one that is made, and the one that is scored.
const BATCHES: usize = QUEUE + 2;
/// How often the kernel programs' own messages are looked for.
const LOG_PERIOD: Duration = Duration::from_millis(200);

/// Ended flows that are processed together; between them living ones are looked for, whose verdicts somebody waits for.
const TOGETHER: usize = 256;

/// What the harvest sends to the pipeline.
enum Message {
    /// Flows that have ended.
    Flows(Vec<FlowRecord>),
    /// The harvest was well at that time.
    Beat(u64),
    Stats(Box<StatsRequest>),
}

/// A `stats` line to be completed by the pipeline.
struct StatsRequest {
    harvested: Harvested,
    last: bool,
    /// Told when the line has been written.
    done: Option<oneshot::Sender<()>>,
}

/// Watches until Ctrl-C or SIGTERM.
///
/// # Errors
/// Anything that keeps it from watching, or from writing the log; nothing stays attached.
pub fn run(args: &Live) -> Result<ExitCode> {
    kernel::require()?;
    let size = TableSize::for_flows(args.max_flows)?;
    let policy = policy(args)?;
    let rules = lists::read(args.reacting.allow.as_deref(), args.reacting.deny.as_deref())?;
    let settings = Settings {
        interfaces: args.interface.clone(),
        // What leaves a mirror port is nothing that was mirrored.
        egress: !args.no_egress && policy.mode() != Mode::Divert,
        timeouts: args.timing.timeouts(),
        look: args.parsing.look(),
        size,
        policy,
        pin: args.reacting.pin.clone(),
    };
    let set = feature_set(&args.writing.set)?;
    // Everything that can be refused is refused before anything is attached.
    let Loaded { kernel, table, aggregates, ring, counters, heart, mut lists, adopted } = Kernel::load(&settings)?;
    lists.install(&heart, &rules)?;
    let judge = judge(&args.scoring)?;
    let extent = Extent { scored: judge.is_some(), several: args.interface.len() > 1 };
    let Writing { format, features, .. } = args.writing;
    let sink = sink::make(format, sink::open_with(&args.log, adopted && format == Format::Jsonl)?, set, extent, features)?;
    let mut pipeline = Pipeline::new(set, judge, sink);
    pipeline.mark_by(Marker::new(args.reacting.audit, kernel::random_seed()?));
    let table = Arc::new(table);
    let context = match pipeline.needs_context() {
        true => Some(Context::new(kernel::random_seed()?)),
        false => None,
    };
    let harvester =
        Harvester::new(Arc::clone(&table), Arc::new(aggregates), ring, settings.timeouts, context);
    let parts = Parts { kernel, counters, table, harvester, pipeline, heart, lists, adopted };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(watch(parts, settings, args))
}

/// The table of actions that was asked for.
fn policy(args: &Live) -> Result<Policy> {
    let Reacting { mode, inspector, on, audit, yes_drop_traffic, allow, deny, .. } = &args.reacting;
    ensure!(
        *mode != Mode::Block || *yes_drop_traffic,
        "--mode block drops traffic on the word of a model, which errs; if that is meant, add --yes-drop-traffic"
    );
    ensure!(
        *mode != Mode::Watch || (allow.is_none() && deny.is_none()),
        "--allow and --deny say what is done with packets; in --mode watch all pass"
    );
    Policy::new(*mode, inspector.as_deref(), on, *audit, &args.interface)
}

struct Parts {
    kernel: Kernel,
    counters: Counters,
    table: Arc<SharedTable>,
    harvester: Harvester,
    pipeline: Pipeline,
    heart: Heart,
    lists: ListMaps,
    adopted: bool,
}

async fn watch(parts: Parts, settings: Settings, args: &Live) -> Result<ExitCode> {
    let Parts { mut kernel, counters, table, mut harvester, pipeline, heart, mut lists, adopted } = parts;
    let context = pipeline.needs_context();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;

    if adopted {
        log::info!("going on with the flows that an agent before has left");
        harvester.resume(heart.ledger());
    }
    for line in settings.policy.lines() {
        log::info!("{line}");
    }
    for attachment in kernel.attach(&settings)? {
        log::info!(
            "{}: watching, {} XDP for what comes in{}",
            attachment.interface,
            attachment.ingress,
            if attachment.egress { ", TC for what goes out" } else { "; what goes out is not counted" }
        );
    }
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    log::info!(
        "memory: {:.0} MiB for {} flows and {:.0} MiB for aggregates, shared with the kernel; at most {:.0} MiB for \
         what is known of them and for those on their way to the log, and {:.0} MiB for what surrounds them. Ctrl-C or SIGTERM writes out what lives and stops",
        mebibytes(settings.size.bytes()),
        settings.size.slots(),
        mebibytes(TableSize::AGGREGATES.bytes()),
        mebibytes((BATCHES * BATCH * size_of::<FlowRecord>()) as u64)
            + mebibytes(u64::from(settings.size.slots()) * size_of::<Known>() as u64),
        mebibytes(if context { Context::bytes() as u64 } else { 0 }),
    );

    let stop = Arc::new(AtomicBool::new(false));
    let counters = Arc::new(counters);
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (urgent, checkpoints) = mpsc::channel(QUEUE);
    let heart = Arc::new(heart);
    let shared =
        Shared { table, counters: Arc::clone(&counters), heart: Arc::clone(&heart), mode: settings.policy.mode(), adopted };
    let leave = Arc::new(AtomicBool::new(false));
    let harvesting = Harvesting { stop: Arc::clone(&stop), leave: Arc::clone(&leave), heart: Arc::clone(&heart) };
    let mut harvest = spawn_harvest(harvester, sender, urgent, harvesting, args.stats_interval);
    let mut write = spawn_pipeline(pipeline, receiver, checkpoints, shared);

    let mut log_ticks = tokio::time::interval(LOG_PERIOD);
    let outcome = loop {
        tokio::select! {
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => {
                leave.store(settings.pin.is_some(), Ordering::Release);
                break Ok(());
            }
            ended = &mut harvest => break Err(why_ended(ended, "taking flows out of the table")),
            ended = &mut write => break Err(why_ended(ended, "writing flows")),
            _ = hangup.recv() => reload_lists(&args.reacting, &mut lists, &heart),
            _ = log_ticks.tick() => kernel.flush_log(),
        }
    };
    let leaves = leave.load(Ordering::Acquire);
    if !leaves {
        kernel.detach()?;
    }
    kernel.flush_log();
    outcome?;
    log::info!("{}", if leaves { "leaving the flows that live to the next agent" } else { "detached; writing out the flows that live" });
    stop.store(true, Ordering::Release);
    let harvested = harvest.await.context("the harvest panicked")??;
    write.await.context("the pipeline panicked")??;
    if leaves {
        return Ok(ExitCode::SUCCESS);
    }
    report(&counters, harvested, adopted)
}

/// Reads the lists again and puts them in force; if they are wrong, those before stay.
fn reload_lists(reacting: &Reacting, lists: &mut ListMaps, heart: &Heart) {
    let Reacting { allow, deny, .. } = reacting;
    let installed = lists::read(allow.as_deref(), deny.as_deref())
        .and_then(|rules| lists.install(heart, &rules).map(|()| rules.len()));
    match installed {
        Ok(rules) => log::info!("allow and deny lists read again: {rules} rules are in force"),
        Err(error) => log::error!("the allow and deny lists stay as they were: {error:#}"),
    }
}

fn why_ended<T>(ended: Result<Result<T>, tokio::task::JoinError>, doing: &str) -> anyhow::Error {
    match ended {
        Ok(Ok(_)) => anyhow!("{doing} ended by itself"),
        Ok(Err(error)) => error.context(format!("{doing} failed")),
        Err(error) => anyhow!("{doing} panicked: {error}"),
    }
}

/// What the harvest's thread has in common with the others.
struct Harvesting {
    /// Set when it is to end.
    stop: Arc<AtomicBool>,
    /// Set before that, if the flows that live are to stay.
    leave: Arc<AtomicBool>,
    heart: Arc<Heart>,
}

/// Looks at the table again and again, on a thread of its own, until told to stop; then takes everything out, unless it is
/// left to the next agent.
fn spawn_harvest(
    mut harvester: Harvester,
    sender: mpsc::Sender<Message>,
    urgent: mpsc::Sender<Vec<FlowRecord>>,
    harvesting: Harvesting,
    stats_interval: Duration,
) -> JoinHandle<Result<Harvested>> {
    tokio::task::spawn_blocking(move || {
        let Harvesting { stop, leave, heart } = harvesting;
        let mut give = {
            let sender = sender.clone();
            move |flows: Vec<FlowRecord>| {
                // A full queue makes the harvest wait, and flows stay in the table.
                let living = flows.first().is_some_and(|flow| matches!(flow.stage, Stage::Checkpoint { .. }));
                let sent = match living {
                    true => urgent.blocking_send(flows).is_ok(),
                    false => sender.blocking_send(Message::Flows(flows)).is_ok(),
                };
                sent.then_some(()).context("the pipeline has stopped")
            }
        };
        let mut next_stats = clock::monotonic() + stats_interval.as_nanos() as u64;
        let mut next_beat = 0;
        while !stop.load(Ordering::Acquire) {
            let sleep = harvester.look(&mut give)?;
            heart.note(harvester.harvested().ledger());
            let now = clock::monotonic();
            if now >= next_beat {
                // By the way that verdicts take: who stops on it stops the heart.
                sender.blocking_send(Message::Beat(now)).map_err(|_| anyhow!("the pipeline has stopped"))?;
                next_beat = now + BEAT_EVERY;
            }
            if clock::monotonic() >= next_stats {
                next_stats += stats_interval.as_nanos() as u64;
                send_stats(&sender, harvester.harvested(), false, None)?;
            }
            harvester.sleep(sleep);
        }
        if !leave.load(Ordering::Acquire) {
            harvester.flush(&mut give)?;
        }
        let harvested = harvester.harvested();
        let (done, written) = oneshot::channel();
        send_stats(&sender, harvested, true, Some(done))?;
        // The pipeline says what keeps it from writing; here it is only waited for.
        let _ = written.blocking_recv();
        Ok(harvested)
    })
}

fn send_stats(
    sender: &mpsc::Sender<Message>,
    harvested: Harvested,
    last: bool,
    done: Option<oneshot::Sender<()>>,
) -> Result<()> {
    sender
        .blocking_send(Message::Stats(Box::new(StatsRequest { harvested, last, done })))
        .map_err(|_| anyhow!("the pipeline has stopped"))
}

/// What the pipeline's thread has in common with the kernel.
struct Shared {
    table: Arc<SharedTable>,
    counters: Arc<Counters>,
    heart: Arc<Heart>,
    mode: Mode,
    /// The agent before may have been told to do something else with packets.
    adopted: bool,
}

/// Finishes, scores and writes flows, on a thread of its own, until there are no more.
fn spawn_pipeline(
    mut pipeline: Pipeline,
    mut receiver: mpsc::Receiver<Message>,
    mut checkpoints: mpsc::Receiver<Vec<FlowRecord>>,
    shared: Shared,
) -> JoinHandle<Result<()>> {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let Shared { table, counters, heart, .. } = &shared;
        let judge = |pipeline: &mut Pipeline, flows: &[FlowRecord]| -> Result<()> {
            let feedback = pipeline.process(flows, |record| counters.interface(record.entry.key.interface))?;
            apply(table, &feedback);
            Ok(())
        };
        loop {
            // Living flows first.
            let message = runtime.block_on(async {
                tokio::select! {
                    biased;
                    Some(living) = checkpoints.recv() => Some(Err(living)),
                    message = receiver.recv() => message.map(Ok),
                }
            });
            match message {
                None => break,
                Some(Err(living)) => judge(&mut pipeline, &living)?,
                Some(Ok(Message::Flows(flows))) => {
                    for some in flows.chunks(TOGETHER) {
                        while let Ok(living) = checkpoints.try_recv() {
                            judge(&mut pipeline, &living)?;
                        }
                        judge(&mut pipeline, some)?;
                    }
                }
                Some(Ok(Message::Beat(at))) => {
                    if pipeline.scores() {
                        heart.beat(at);
                    }
                }
                Some(Ok(Message::Stats(request))) => {
                    let stats = complete(&shared, &request, pipeline.counts())?;
                    if !stats.identity {
                        log::error!("the account is not balanced: {:?}", stats.interfaces);
                    }
                    pipeline.stats(&stats)?;
                    if let Some(done) = request.done {
                        // Whoever asked may have gone; the line is written all the same.
                        let _ = done.send(());
                    }
                }
            }
            if receiver.is_empty() && checkpoints.is_empty() {
                // Somebody may be reading along.
                pipeline.flush()?;
            }
        }
        pipeline.finish()
    })
}

/// Writes verdicts into the slots of flows that still live there.
fn apply(table: &SharedTable, feedback: &[Feedback]) {
    for verdict in feedback {
        if table.tag(verdict.slot) == verdict.tag && table.entry(verdict.slot).is_some() {
            table.store_verdict(verdict.slot, verdict.mark);
        }
    }
}

fn complete(shared: &Shared, request: &StatsRequest, pipeline: PipelineCounts) -> Result<Stats> {
    let Shared { table, counters, mode, adopted, .. } = shared;
    let reactions = if *mode == Mode::Watch { Vec::new() } else { counters.reactions()? };
    let read = counters.read()?;
    let mut interfaces: Vec<Account> =
        read.iter().map(|(name, counters)| Account::new(name, counters)).collect();
    for (account, [arrived, left]) in interfaces.iter_mut().zip(&reactions) {
        account.react(Reacted::new(*mode, arrived, left, account.seen, request.last && !adopted));
    }
    Ok(Stats {
        event: "stats",
        timestamp: sink::timestamp(clock::monotonic().wrapping_add(clock::offset_to_epoch())),
        identity: interfaces.iter().all(|account| account.identity),
        interfaces,
        flows: FlowCounts {
            opened: read.iter().map(|(_, c)| c.opened).sum(),
            ended: request.harvested.flows,
            living: request.harvested.living,
            evicted: request.harvested.evicted,
            slots: table.size().slots().into(),
        },
        pipeline,
        events_lost: read.iter().map(|(_, c)| c.events_lost).sum(),
        torn_reads: request.harvested.torn,
        context_pushed_out: request.harvested.pushed_out,
        last: request.last,
    })
}

/// Prints the account, and proves that what was counted is what was written.
fn report(counters: &Counters, harvested: Harvested, adopted: bool) -> Result<ExitCode> {
    let mut balanced = true;
    let (mut counted, mut bytes, mut opened, mut aggregated) = (0, 0, 0, 0);
    for (name, counters) in counters.read()? {
        let account = Account::new(&name, &counters);
        log::info!("{}", account.line());
        balanced &= account.identity;
        counted += counters.counted;
        bytes += counters.counted_bytes;
        opened += counters.opened;
        aggregated += counters.folded - counters.unaggregated;
    }
    log::info!(
        "flows: {} opened, {} written, with {} packets and {} bytes",
        opened,
        harvested.flows,
        harvested.packets,
        harvested.bytes
    );
    let written = (harvested.packets, harvested.bytes, harvested.flows, harvested.aggregated);
    if balanced && (counted, bytes, opened, aggregated) == written {
        return Ok(ExitCode::SUCCESS);
    }
    if balanced && adopted && counted >= harvested.packets && aggregated >= harvested.aggregated {
        log::warn!(
            "{} packets of {} flows had been taken out by an agent that died before it could note them; they may be \
             missing in its log",
            counted - harvested.packets,
            opened.saturating_sub(harvested.flows)
        );
        return Ok(ExitCode::SUCCESS);
    }
    log::error!(
        "the account is not balanced: {counted} packets and {bytes} bytes were counted in {opened} flows, and \
         {aggregated} packets in aggregates; written were {written:?}; this is a defect of flowmeter"
    );
    Ok(ExitCode::FAILURE)
}
