//! A table cut into files: each is finished, stored and named by the time at which it began, whole or not there.
//!
//! The open file's name ends with `.partial`. After a crash it is what is lost: a Parquet file has its index at its end.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::Sink;
use crate::config::Rotation;
use crate::record::Stage;
use crate::scoring::Scored;
use crate::stats::{AgentEvent, Stats};

/// Makes a table on a file.
pub type Make = Box<dyn FnMut(Box<dyn Write + Send>) -> Result<Box<dyn Sink>> + Send>;

/// A table in files that follow each other.
pub struct Rotating {
    /// What names are made of: `flows.parquet` gives `flows-20260101T120000Z.parquet`.
    path: PathBuf,
    rotation: Rotation,
    make: Make,
    open: Option<OpenFile>,
    now: fn() -> Timestamp,
}

/// The file that is written to.
struct OpenFile {
    sink: Box<dyn Sink>,
    file: File,
    partial: PathBuf,
    place: PathBuf,
    written: Arc<AtomicU64>,
    /// When its time is over.
    until: Option<Timestamp>,
    /// Whether there is a flow in it.
    used: bool,
}

/// Counts what is written.
struct Counted {
    out: BufWriter<File>,
    written: Arc<AtomicU64>,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Rotating {
    /// Files beside `path`, each made by `make`.
    ///
    /// # Errors
    /// The first cannot be made.
    pub fn new(path: &Path, rotation: Rotation, make: Make) -> Result<Self> {
        Self::by_clock(path, rotation, make, Timestamp::now)
    }

    fn by_clock(path: &Path, rotation: Rotation, make: Make, now: fn() -> Timestamp) -> Result<Self> {
        let mut rotating = Self { path: path.to_owned(), rotation, make, open: None, now };
        rotating.begin()?;
        Ok(rotating)
    }

    /// Begins a file.
    fn begin(&mut self) -> Result<()> {
        let now = (self.now)();
        let place = named(&self.path, now);
        let mut name = place.clone().into_os_string();
        name.push(".partial");
        let partial = PathBuf::from(name);
        let file = File::options().write(true).create_new(true).open(&partial);
        let file = file.with_context(|| format!("cannot make {}", partial.display()))?;
        let written = Arc::new(AtomicU64::new(0));
        let out = BufWriter::new(file.try_clone().context("cannot write the table")?);
        let sink = (self.make)(Box::new(Counted { out, written: Arc::clone(&written) }))?;
        let until = match self.rotation {
            Rotation::Time(period) => {
                // By the clock: hours begin at full hours.
                let period = period.as_secs().max(1) as i64;
                Some(Timestamp::from_second((now.as_second().div_euclid(period) + 1) * period)?)
            }
            Rotation::Size(_) => None,
        };
        self.open = Some(OpenFile { sink, file, partial, place, written, until, used: false });
        Ok(())
    }

    /// Ends the file, and begins the next one, if it is time to.
    fn rotate(&mut self) -> Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let due = match self.rotation {
            Rotation::Time(_) => open.until.is_some_and(|until| (self.now)() >= until),
            Rotation::Size(most) => open.used && open.written.load(Ordering::Relaxed) >= most,
        };
        if due {
            self.end()?;
            self.begin()?;
        }
        Ok(())
    }

    /// Finishes the file and gives it its name; one without a flow is removed.
    fn end(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        open.sink.finish()?;
        if !open.used {
            return fs::remove_file(&open.partial)
                .with_context(|| format!("cannot remove {}", open.partial.display()));
        }
        open.file.sync_all().with_context(|| format!("cannot store {}", open.partial.display()))?;
        fs::rename(&open.partial, &open.place)
            .with_context(|| format!("cannot give {} its name", open.partial.display()))
    }

    fn sink(&mut self) -> Result<&mut dyn Sink> {
        self.open
            .as_mut()
            .map(|open| open.sink.as_mut() as &mut dyn Sink)
            .context("the table has been finished")
    }
}

impl Sink for Rotating {
    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        self.rotate()?;
        if let Some(open) = &mut self.open {
            // Tables have no flows that live.
            open.used |= matches!(scored.record.stage, Stage::End(_));
        }
        self.sink()?.flow(scored)
    }

    fn stats(&mut self, stats: &Stats) -> Result<()> {
        self.sink()?.stats(stats)
    }

    fn agent(&mut self, event: &AgentEvent) -> Result<()> {
        self.sink()?.agent(event)
    }

    fn flush(&mut self) -> Result<()> {
        self.rotate()?;
        self.sink()?.flush()
    }

    fn finish(&mut self) -> Result<()> {
        self.end()
    }
}

/// A name that no file has: `flows.parquet` at noon gives `flows-20260101T120000Z.parquet`.
fn named(path: &Path, at: Timestamp) -> PathBuf {
    let stamp = at.strftime("%Y%m%dT%H%M%SZ");
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    let extension = extension.unwrap_or_default();
    let mut number = 0_u32;
    loop {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let place = path.with_file_name(format!("{stem}-{stamp}{suffix}{extension}"));
        let partial = path.with_file_name(format!("{stem}-{stamp}{suffix}{extension}.partial"));
        if !place.exists() && !partial.exists() {
            return place;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use flowmeter_common::flow::Entry;
    use flowmeter_common::lifecycle::EndReason;

    use super::*;
    use crate::record::FlowRecord;

    /// Seconds since the Unix epoch, as the tests' clock has it.
    static CLOCK: AtomicI64 = AtomicI64::new(0);

    fn clock() -> Timestamp {
        Timestamp::from_second(CLOCK.load(Ordering::Relaxed)).expect("a time")
    }

    /// Writes a line of a kibibyte for each flow, and a last one at the end.
    struct Lines(Box<dyn Write + Send>);

    impl Sink for Lines {
        fn flow(&mut self, _: &Scored<'_>) -> Result<()> {
            Ok(self.0.write_all(&[b'x'; 1024])?)
        }

        fn stats(&mut self, _: &Stats) -> Result<()> {
            Ok(())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(self.0.flush()?)
        }

        fn finish(&mut self) -> Result<()> {
            self.0.write_all(b"end")?;
            self.flush()
        }
    }

    fn names(folder: &Path) -> Vec<(String, u64)> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| {
                let entry = entry.expect("an entry");
                (entry.file_name().to_string_lossy().into_owned(), entry.metadata().expect("about it").len())
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_cut_by_the_clock_and_by_size_and_are_whole_under_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let table = folder.path().join("flows.parquet");
        let make = || -> Make { Box::new(|out| Ok(Box::new(Lines(out)))) };
        // SAFETY: an entry is whole words, of which all are valid.
        let entry: Entry = unsafe { std::mem::zeroed() };
        let record = FlowRecord::of_capture(&entry, EndReason::Idle);
        let scored = Scored {
            record: &record,
            observed: None,
            features: &[],
            verdict: None,
            score: None,
            threshold: None,
            model: None,
            reasons: &[],
            unexplained: false,
        };
        // At 12:59:50.
        CLOCK.store(1_767_272_390, Ordering::Relaxed);
        let hour = Rotation::Time(std::time::Duration::from_secs(3600));
        let mut rotating = Rotating::by_clock(&table, hour, make(), clock).expect("a table");
        rotating.flow(&scored).expect("room");
        rotating.flush().expect("room");
        assert_eq!(names(folder.path()), [("flows-20260101T125950Z.parquet.partial".to_owned(), 1024)]);
        CLOCK.fetch_add(10, Ordering::Relaxed);
        rotating.flush().expect("room");
        let first = ("flows-20260101T125950Z.parquet".to_owned(), 1027);
        let open = ("flows-20260101T130000Z.parquet.partial".to_owned(), 0);
        assert_eq!(names(folder.path()), [first.clone(), open], "a full hour, though no flow came");
        // An hour without a flow leaves no file.
        CLOCK.fetch_add(3600, Ordering::Relaxed);
        rotating.flush().expect("room");
        rotating.finish().expect("room");
        assert_eq!(names(folder.path()), [first]);

        let mut rotating = Rotating::by_clock(&table, Rotation::Size(3000), make(), clock).expect("a table");
        for _ in 0..7 {
            rotating.flow(&scored).expect("room");
            rotating.flush().expect("room");
        }
        rotating.finish().expect("room");
        let cut: Vec<_> = names(folder.path()).into_iter().skip(1).collect();
        let name = |number: &str| format!("flows-20260101T140000Z{number}.parquet");
        // Names of the same second are told apart, and none is written over.
        let expected = [(name("-1"), 3075), (name("-2"), 1027), (name(""), 3075)];
        assert_eq!(cut, expected);
    }
}
