//! `flowmeter live`: interfaces to flows and verdicts, until told to stop.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use flowmeter_common::flow::FIRST_CHECKPOINT;
use flowmeter_common::prefilter::BEAT_EVERY;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{ScorerLoader, feature_set, scorer};
use crate::cli::{Format, Live, PrefilterArgs, Writing};
use crate::context::{Context, Surroundings};
use crate::kernel::{
    self, Counters, Heartbeat, Kernel, ListMaps, Loaded, Settings, SharedTable, TableSize, clock,
};
use crate::latency::LatencyHistogram;
use crate::pipeline::{Feedback, Pipeline};
use crate::prefilter::{Marker, Mode, Policy, lists};
use crate::record::{FlowRecord, Stage};
use crate::scoring::Scorer;
use crate::sink::{self, table::Extent};
use crate::source::live::{BATCH, Drain, DrainCounts, Known, LEAVING, RecordSink};
use crate::stats::{Account, DriftStats, FlowCounts, PipelineCounts, PrefilterStats, ScoringStats, Stats};

/// Batches between drain and pipeline, of living flows, which are in a hurry, and of ended ones; when they are all taken,
/// flows wait in the table.
const QUEUES: [usize; 2] = [4, 16];
/// Flows out of the table at once: those that leave it together, in the queues, and in the pipeline.
const MAX_OUT: usize = LEAVING + (QUEUES[0] + QUEUES[1] + 2) * BATCH;
/// How often the kernel programs' own messages are looked for.
const LOG_PERIOD: Duration = Duration::from_millis(200);

/// What comes to the pipeline from the drain.
struct Received {
    /// Flows at their checkpoints.
    living: mpsc::Receiver<Taken>,
    rest: mpsc::Receiver<Message>,
}

/// Flows that have ended, and what follows them.
enum Message {
    Flows(Taken),
    /// The drain was well at that time.
    Beat(u64),
    Stats(Box<StatsRequest>),
}

/// Flows with the times, in the kernel programs' clock, that delays count from.
struct Taken {
    flows: Vec<FlowRecord>,
    /// When they were taken out of the table, or copied there.
    at: u64,
    /// Of living flows: what brought them here came later.
    since: u64,
}

/// The drain's end of both queues.
struct Queues {
    living: mpsc::Sender<Taken>,
    rest: mpsc::Sender<Message>,
}

impl RecordSink for Queues {
    fn living(&mut self, flows: Vec<FlowRecord>, since: u64) -> Result<()> {
        let taken = Taken { flows, at: clock::monotonic(), since };
        self.living.blocking_send(taken).map_err(|_| stopped())
    }

    fn ended(&mut self, flows: Vec<FlowRecord>) -> Result<Option<Vec<FlowRecord>>> {
        let at = clock::monotonic();
        match self.rest.try_send(Message::Flows(Taken { flows, at, since: at })) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(Message::Flows(taken))) => Ok(Some(taken.flows)),
            Err(_) => Err(stopped()),
        }
    }
}

impl Queues {
    /// Sends what is no flow; false if there is no room now.
    fn try_tell(&self, message: Message) -> Result<bool> {
        match self.rest.try_send(message) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Closed(_)) => Err(stopped()),
        }
    }
}

fn stopped() -> anyhow::Error {
    anyhow!("the pipeline has stopped")
}

/// A `stats` line to be completed by the pipeline.
struct StatsRequest {
    drained: DrainCounts,
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
    let rules = lists::read(args.prefilter.allow.as_deref(), args.prefilter.deny.as_deref())?;
    let settings = Settings {
        interfaces: args.interface.clone(),
        // What leaves a mirror port is nothing that was mirrored.
        egress: !args.no_egress && policy.mode() != Mode::Divert,
        timeouts: args.timing.timeouts(),
        look: args.parsing.look(),
        size,
        policy,
        pin: args.prefilter.pin.clone(),
    };
    let set = feature_set(&args.writing.set)?;
    // Everything that can be refused is refused before anything is attached.
    let Loaded { kernel, table, aggregates, ring, counters, heartbeat, mut lists, adopted } =
        Kernel::load(&settings)?;
    lists.install(&heartbeat, &rules)?;
    let scorers = ScorerLoader::of(&args.scoring)?;
    let scorer = scorer(scorers.as_ref())?.map(Scorer::explaining_in_time);
    let extent = Extent { scored: scorer.is_some(), several: args.interface.len() > 1 };
    let Writing { format, features, .. } = args.writing;
    let out = sink::open_with(&args.log, adopted && format == Format::Jsonl)?;
    let sink = sink::make(format, out, set, extent, features)?;
    let mut pipeline = Pipeline::new(set, scorer, sink);
    pipeline.mark_by(Marker::new(args.prefilter.audit, kernel::random_seed()?));
    let table = Arc::new(table);
    let context = match pipeline.needs_context() {
        true => Some(Context::new(kernel::random_seed()?)),
        false => None,
    };
    let drain = Drain::new(Arc::clone(&table), Arc::new(aggregates), ring, settings.timeouts, context);
    let parts = Parts { kernel, counters, table, drain, pipeline, scorers, heartbeat, lists, adopted };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(watch(parts, settings, args))
}

/// The table of actions that was asked for.
fn policy(args: &Live) -> Result<Policy> {
    let PrefilterArgs { mode, inspector, on, audit, yes_drop_traffic, allow, deny, .. } = &args.prefilter;
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
    drain: Drain,
    pipeline: Pipeline,
    scorers: Option<ScorerLoader>,
    heartbeat: Heartbeat,
    lists: ListMaps,
    adopted: bool,
}

async fn watch(parts: Parts, settings: Settings, args: &Live) -> Result<ExitCode> {
    let Parts { mut kernel, counters, table, mut drain, pipeline, scorers, heartbeat, mut lists, adopted } =
        parts;
    let context = pipeline.needs_context();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;

    if settings.policy.mode() != Mode::Watch {
        drain.be_prompt();
    }
    if adopted {
        log::info!("going on with the flows that an agent before has left");
        drain.resume(heartbeat.ledger());
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
    let on_their_way =
        MAX_OUT * (size_of::<FlowRecord>() + if context { size_of::<Surroundings>() } else { 0 });
    log::info!(
        "memory: {:.0} MiB for {} flows and {:.0} MiB for aggregates, shared with the kernel; at most {:.0} MiB for \
         what is known of them and for those on their way to the log, and {:.0} MiB for what surrounds them. Ctrl-C or \
         SIGTERM writes out what lives and stops",
        mebibytes(settings.size.bytes()),
        settings.size.flows(),
        mebibytes(TableSize::for_aggregates()?.bytes()),
        mebibytes(on_their_way as u64 + u64::from(settings.size.entries()) * size_of::<Known>() as u64),
        mebibytes(if context { Context::bytes() as u64 } else { 0 }),
    );

    let stop = Arc::new(AtomicBool::new(false));
    let counters = Arc::new(counters);
    let ((living, from_living), (rest, from_rest)) = (mpsc::channel(QUEUES[0]), mpsc::channel(QUEUES[1]));
    let received = Received { living: from_living, rest: from_rest };
    let heartbeat = Arc::new(heartbeat);
    let leave = Arc::new(AtomicBool::new(false));
    let draining =
        DrainShared { stop: Arc::clone(&stop), leave: Arc::clone(&leave), heartbeat: Arc::clone(&heartbeat) };
    let mut drain = spawn_drain(drain, Queues { living, rest }, draining, args.stats_interval);
    let (reloads, loaded) = blocking::sync_channel(1);
    let reload =
        Reload { scorers: scorers.map(|scorers| Arc::new(Mutex::new(scorers))), context, loaded: reloads };
    let shared = Shared {
        table,
        counters: Arc::clone(&counters),
        heartbeat: Arc::clone(&heartbeat),
        mode: settings.policy.mode(),
        adopted,
    };
    let mut write = spawn_pipeline(pipeline, received, loaded, shared);

    let mut log_ticks = tokio::time::interval(LOG_PERIOD);
    let outcome = loop {
        tokio::select! {
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => {
                leave.store(settings.pin.is_some(), Ordering::Release);
                break Ok(());
            }
            _ = hangup.recv() => {
                reload.start();
                reload_lists(&args.prefilter, &mut lists, &heartbeat);
            }
            ended = &mut drain => break Err(why_ended(ended, "taking flows out of the table")),
            ended = &mut write => break Err(why_ended(ended, "writing flows")),
            _ = log_ticks.tick() => kernel.flush_log(),
        }
    };
    let leaves = leave.load(Ordering::Acquire);
    if !leaves {
        kernel.detach()?;
    }
    kernel.flush_log();
    outcome?;
    log::info!(
        "{}",
        match leaves {
            true => "leaving the flows that live to the next agent",
            false => "detached; writing out the flows that live",
        }
    );
    stop.store(true, Ordering::Release);
    let drained = drain.await.context("the drain panicked")??;
    write.await.context("the pipeline panicked")??;
    if leaves {
        return Ok(ExitCode::SUCCESS);
    }
    report(&counters, drained, adopted)
}

/// Reads the lists again and puts them in force; if they are wrong, those before stay.
fn reload_lists(prefilter: &PrefilterArgs, lists: &mut ListMaps, heartbeat: &Heartbeat) {
    let PrefilterArgs { allow, deny, .. } = prefilter;
    if allow.is_none() && deny.is_none() {
        return;
    }
    let installed = lists::read(allow.as_deref(), deny.as_deref())
        .and_then(|rules| lists.install(heartbeat, &rules).map(|()| rules.len()));
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

/// What the drain's thread has in common with the others.
struct DrainShared {
    /// Set when it is to end.
    stop: Arc<AtomicBool>,
    /// Set before that, if the flows that live are to stay.
    leave: Arc<AtomicBool>,
    heartbeat: Arc<Heartbeat>,
}

/// Looks at the table again and again, on a thread of its own, until told to stop; then takes everything out, unless it is
/// left to the next agent.
fn spawn_drain(
    mut drain: Drain,
    mut queues: Queues,
    draining: DrainShared,
    stats_interval: Duration,
) -> JoinHandle<Result<DrainCounts>> {
    tokio::task::spawn_blocking(move || {
        let DrainShared { stop, leave, heartbeat } = draining;
        let mut next_stats = clock::monotonic() + stats_interval.as_nanos() as u64;
        let mut next_beat = 0;
        while !stop.load(Ordering::Acquire) {
            let sleep = drain.look(&mut queues)?;
            heartbeat.note(drain.drained().ledger());
            let now = clock::monotonic();
            // By the way that verdicts take: who stops on it stops the heartbeat. Where there is no room now, there is at one
            // of the next looks.
            if now >= next_beat && queues.try_tell(Message::Beat(now))? {
                next_beat = now + BEAT_EVERY;
            }
            if now >= next_stats && queues.try_tell(stats(drain.drained(), false, None))? {
                next_stats += stats_interval.as_nanos() as u64;
            }
            drain.sleep(sleep);
        }
        if !leave.load(Ordering::Acquire) {
            drain.flush(&mut queues)?;
        }
        let drained = drain.drained();
        let (done, written) = oneshot::channel();
        queues.rest.blocking_send(stats(drained, true, Some(done))).map_err(|_| stopped())?;
        // The pipeline says what keeps it from writing; here it is only waited for.
        let _ = written.blocking_recv();
        Ok(drained)
    })
}

fn stats(drained: DrainCounts, last: bool, done: Option<oneshot::Sender<()>>) -> Message {
    Message::Stats(Box::new(StatsRequest { drained, last, done }))
}

/// Loads the model anew when told to.
struct Reload {
    scorers: Option<Arc<Mutex<ScorerLoader>>>,
    /// Whether there is what surrounds a flow: it is kept from the start or not at all.
    context: bool,
    /// To the pipeline.
    loaded: blocking::SyncSender<Scorer>,
}

impl Reload {
    /// Loads on a thread of its own: meanwhile flows are scored by the model that there is.
    fn start(&self) {
        let Some(scorers) = self.scorers.clone() else {
            return log::warn!("SIGHUP: there is no model to load, because of --no-model");
        };
        let (loaded, has_context) = (self.loaded.clone(), self.context);
        tokio::task::spawn_blocking(move || {
            // One after the other, so that the last one to load sees the file as it was left.
            let scorers = scorers.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(file) = scorers.file().or(scorers.calibration()) else {
                return log::warn!(
                    "SIGHUP: the built-in model is always the same; --model FILE names one that may change"
                );
            };
            let usable = scorers.load().and_then(|scorer| {
                let set = scorer.feature_set();
                ensure!(
                    has_context || !set.context,
                    "it takes {}, and so needs what surrounds a flow, which this agent has not kept from its start: stop it \
                     and start it with this model",
                    set.id
                );
                Ok(scorer)
            });
            match usable {
                // Without a pipeline there is nothing left to score.
                Ok(scorer) => drop(loaded.send(scorer.explaining_in_time())),
                Err(error) => log::error!(
                    "SIGHUP: {} is not taken, and the model that there is goes on: {error:#}",
                    file.display()
                ),
            }
        });
    }
}

/// What the pipeline's thread has in common with the kernel.
struct Shared {
    table: Arc<SharedTable>,
    counters: Arc<Counters>,
    heartbeat: Arc<Heartbeat>,
    mode: Mode,
    /// The agent before may have been told to do something else with packets.
    adopted: bool,
}

/// Finishes, scores and writes flows, on a thread of its own, until there are no more.
fn spawn_pipeline(
    pipeline: Pipeline,
    received: Received,
    loaded: blocking::Receiver<Scorer>,
    shared: Shared,
) -> JoinHandle<Result<()>> {
    tokio::task::spawn_blocking(move || {
        let mut writer = Writer {
            pipeline,
            shared,
            at_checkpoints: LatencyHistogram::default(),
            at_ends: LatencyHistogram::default(),
        };
        let Received { mut living, mut rest } = received;
        let runtime = tokio::runtime::Handle::current();
        loop {
            let next = runtime.block_on(async {
                tokio::select! {
                    biased;
                    Some(taken) = living.recv() => Some(Message::Flows(taken)),
                    Some(message) = rest.recv() => Some(message),
                    else => None,
                }
            });
            if let Some(scorer) = loaded.try_iter().last() {
                writer.pipeline.replace_scorer(scorer);
            }
            match next {
                Some(Message::Flows(taken)) => writer.flows(&taken)?,
                Some(Message::Beat(at)) => {
                    if writer.pipeline.scores() {
                        writer.shared.heartbeat.beat(at);
                    }
                }
                Some(Message::Stats(request)) => {
                    // What was sent before it belongs into it.
                    while let Ok(taken) = living.try_recv() {
                        writer.flows(&taken)?;
                    }
                    writer.stats(*request)?;
                }
                None => break,
            }
        }
        writer.pipeline.finish()
    })
}

/// What takes flows to the log and their verdicts to the table.
struct Writer {
    pipeline: Pipeline,
    shared: Shared,
    at_checkpoints: LatencyHistogram,
    at_ends: LatencyHistogram,
}

impl Writer {
    fn flows(&mut self, taken: &Taken) -> Result<()> {
        let flows = &taken.flows;
        let counters = &self.shared.counters;
        let feedback =
            self.pipeline.process(flows, |record| counters.interface(record.entry.key.interface))?;
        for Feedback { entry, seen, mark } in feedback {
            // A flow that has gone meanwhile needs none.
            self.shared.table.give_mark(entry, seen, mark);
        }
        // Somebody may be reading along.
        self.pipeline.flush()?;
        let now = clock::monotonic();
        for record in flows {
            match record.stage {
                Stage::Checkpoint { .. } => {
                    self.at_checkpoints.add(now.saturating_sub(reached(record, taken)))
                }
                Stage::End(_) => self.at_ends.add(now.saturating_sub(taken.at)),
            }
        }
        Ok(())
    }

    fn stats(&mut self, request: StatsRequest) -> Result<()> {
        let scoring = self.pipeline.scored().map(|(rows, time)| ScoringStats {
            rows,
            seconds: time.as_secs_f64(),
            rows_per_second: rows as f64 / time.as_secs_f64().max(1e-9),
            checkpoint_delay_ms: self.at_checkpoints.take(),
            end_delay_ms: self.at_ends.take(),
        });
        let drift = self.pipeline.drift();
        let stats = complete(&self.shared, &request, self.pipeline.counts(), scoring, drift)?;
        if !stats.identity {
            log::error!("the account is not balanced: {:?}", stats.interfaces);
        }
        self.pipeline.stats(&stats)?;
        if let Some(done) = request.done {
            // Whoever asked may have gone; the line is written all the same.
            let _ = done.send(());
        }
        Ok(())
    }
}

/// When a living flow reached its checkpoint, or before: of the packets since only the last one's time is known.
fn reached(record: &FlowRecord, taken: &Taken) -> u64 {
    let (packets, last) = (record.entry.state.packets(), record.entry.state.last());
    let is_last = packets.is_power_of_two() && packets >= FIRST_CHECKPOINT;
    if is_last { last } else { last.min(taken.since) }
}

fn complete(
    shared: &Shared,
    request: &StatsRequest,
    pipeline: PipelineCounts,
    scoring: Option<ScoringStats>,
    drift: Option<DriftStats>,
) -> Result<Stats> {
    let Shared { table, counters, mode, adopted, .. } = shared;
    let prefilter_counters = if *mode == Mode::Watch { Vec::new() } else { counters.prefilter_counters()? };
    let read = counters.read()?;
    let mut interfaces: Vec<Account> =
        read.iter().map(|(name, counters)| Account::new(name, counters)).collect();
    for (account, [arrived, left]) in interfaces.iter_mut().zip(&prefilter_counters) {
        account.set_prefilter(PrefilterStats::new(
            *mode,
            arrived,
            left,
            account.seen,
            request.last && !adopted,
        ));
    }
    Ok(Stats {
        event: "stats",
        timestamp: sink::timestamp(clock::monotonic().wrapping_add(clock::offset_to_epoch())),
        identity: interfaces.iter().all(|account| account.identity),
        interfaces,
        flows: FlowCounts {
            opened: read.iter().map(|(_, c)| c.opened).sum(),
            ended: request.drained.flows,
            living: request.drained.living,
            evicted: request.drained.evicted,
            slots: table.size().flows().into(),
        },
        pipeline,
        scoring,
        drift,
        events_lost: read.iter().map(|(_, c)| c.events_lost).sum(),
        torn_reads: request.drained.torn,
        context_pushed_out: request.drained.pushed_out,
        last: request.last,
    })
}

/// Prints the account, and proves that what was counted is what was written.
fn report(counters: &Counters, drained: DrainCounts, adopted: bool) -> Result<ExitCode> {
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
        drained.flows,
        drained.packets,
        drained.bytes
    );
    let written = (drained.packets, drained.bytes, drained.flows, drained.aggregated);
    if balanced && (counted, bytes, opened, aggregated) == written {
        return Ok(ExitCode::SUCCESS);
    }
    if balanced && adopted && counted >= drained.packets && aggregated >= drained.aggregated {
        log::warn!(
            "{} packets of {} flows had been taken out by an agent that died before it could note them; they may be \
             missing in its log",
            counted - drained.packets,
            opened.saturating_sub(drained.flows)
        );
        return Ok(ExitCode::SUCCESS);
    }
    log::error!(
        "the account is not balanced: {counted} packets and {bytes} bytes were counted in {opened} flows, and \
         {aggregated} packets in aggregates; written were {written:?}; this is a defect of flowmeter"
    );
    Ok(ExitCode::FAILURE)
}
