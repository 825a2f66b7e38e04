//! Where the living log goes: a file that no restart, rotation or full disk destroys, or a pipe whose reader may hang.
//!
//! Only whole lines reach a file. What cannot be written now is held, up to `MAX_HELD`; lines beyond that are lost, and
//! counted. A pipe holds its writer up, as pipes do, until the agent is told to stop. Whoever flushes from time to time has
//! a renamed file noticed and failed writes tried again, also while there are no lines.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read as _, Seek as _, SeekFrom, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};

/// Lines are handed to the system when there are so many bytes of them, or when they are flushed.
const BUFFER: usize = 1 << 16;
/// Most bytes of lines that are held while they cannot be written.
const MAX_HELD: usize = 16 << 20;
/// How long after a failed write it is tried again, and how often a renamed file is looked for.
const RETRY: Duration = Duration::from_secs(1);
/// Most bytes that a pipe takes without waiting, once it can take any (PIPE_BUF, pipe(7)).
const PIPE_WRITE: usize = 4096;
/// How often a writer that a pipe holds up looks whether the agent stops.
const PIPE_WAIT: Duration = Duration::from_millis(100);
/// How long the agent waits, once it stops, for a reader that takes nothing.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What other threads tell the log, and what it tells them.
#[derive(Debug, Default)]
pub struct LogStatus {
    reopen: AtomicBool,
    stopping: AtomicBool,
    failing: AtomicBool,
    errors: AtomicU64,
    lost: AtomicU64,
    held: AtomicU64,
}

impl LogStatus {
    /// Has the file opened again, by its name, before the next line.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    /// The agent stops: a reader that hangs is waited for no longer than five seconds.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the latest write failed.
    pub fn failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// Writes that failed so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Acquire)
    }

    /// Bytes of lines that wait to be written.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// Lines lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Acquire)
    }
}

/// Where it is written to.
enum Place {
    /// Not opened yet.
    Closed,
    /// A file in a file system, or a device.
    File(File),
    /// A pipe or a terminal: what it has taken is gone.
    Stream(File),
}

/// A log that is appended to.
pub struct LogFile {
    path: PathBuf,
    place: Place,
    status: Arc<LogStatus>,
    /// Whether a file that was renamed or removed is noticed, and opened again.
    follow: bool,
    /// What has not been written.
    held: Vec<u8>,
    /// Where its last whole line ends.
    whole: usize,
    /// When a renamed file is looked for, or a failed write tried again.
    next_look: Instant,
    /// Why nothing more is written.
    given_up: bool,
}

impl LogFile {
    /// A log at this path; `-` is the standard output. A file is opened by [`open`](Self::open) only, so that a start that
    /// is refused leaves it alone; a FIFO is opened here, which waits for its reader.
    ///
    /// # Errors
    /// Nothing can be written there.
    pub fn prepare(path: &Path, status: Arc<LogStatus>, follow: bool) -> Result<Self> {
        let place = match fs::metadata(path) {
            _ if path == Path::new("-") => {
                let output = io::stdout().as_fd().try_clone_to_owned().context("no standard output")?;
                place_of(File::from(output))?
            }
            Ok(found) if found.file_type().is_fifo() => {
                log::info!("{}: waiting for its reader", path.display());
                place_of(append(path)?)?
            }
            Ok(found) => {
                ensure!(!found.is_dir(), "cannot write to {}: it is a folder; name a file", path.display());
                Place::Closed
            }
            Err(_) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                if let Some(folder) = folder {
                    ensure!(
                        folder.is_dir(),
                        "cannot write to {}: there is no folder {}; make it first",
                        path.display(),
                        folder.display()
                    );
                }
                Place::Closed
            }
        };
        Ok(Self {
            path: path.to_owned(),
            place,
            status,
            follow,
            held: Vec::with_capacity(BUFFER),
            whole: 0,
            next_look: Instant::now() + RETRY,
            given_up: false,
        })
    }

    /// Opens a file at its end; what is in it stays.
    ///
    /// # Errors
    /// It cannot be written to, or another process writes to it.
    pub fn open(&mut self) -> Result<()> {
        if matches!(self.place, Place::Closed) {
            self.place = open_place(&self.path)?;
        }
        Ok(())
    }

    /// What is due from time to time: opens the file again, tries failed writes again.
    fn maintain(&mut self) -> io::Result<()> {
        if self.status.reopen.swap(false, Ordering::AcqRel) {
            self.reopen();
        }
        let now = Instant::now();
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now + RETRY;
        if self.follow && self.was_renamed() {
            self.reopen();
        }
        self.write_out(true)
    }

    /// True if the name stands for another file than the one that is open, or for none.
    fn was_renamed(&self) -> bool {
        let Place::File(file) = &self.place else { return false };
        match (file.metadata(), fs::metadata(&self.path)) {
            (Ok(open), Ok(named)) => (open.dev(), open.ino()) != (named.dev(), named.ino()),
            (Ok(_), Err(_)) => true,
            (Err(_), _) => false,
        }
    }

    /// Opens the file again by its name. If that fails the one before goes on.
    fn reopen(&mut self) {
        let Place::File(file) = &self.place else { return };
        // Where it is the same file there is nothing to do; its lock would be in the way.
        if let (Ok(open), Ok(named)) = (file.metadata(), fs::metadata(&self.path))
            && (open.dev(), open.ino()) == (named.dev(), named.ino())
        {
            return;
        }
        // Lines that belong before the rotation.
        let _ = self.write_out(false);
        match open_place(&self.path) {
            Ok(place) => {
                log::info!("{}: opened again", self.path.display());
                self.place = place;
            }
            Err(error) => {
                self.status.errors.fetch_add(1, Ordering::AcqRel);
                log::error!("the log goes on in the file before: {error:#}");
            }
        }
    }

    /// Writes all whole lines. A file that failed is tried again if it is time to.
    fn write_out(&mut self, due: bool) -> io::Result<()> {
        if self.given_up {
            self.lose();
        }
        if self.whole == 0 || (self.status.failing() && !due && !self.status.stopping.load(Ordering::Acquire))
        {
            return Ok(());
        }
        match &mut self.place {
            Place::Closed => Ok(()),
            Place::File(file) => {
                let written = write_whole(file, &self.held[..self.whole]);
                self.note(written);
                Ok(())
            }
            Place::Stream(_) => self.write_stream(),
        }
    }

    /// Says and counts what became of a write to a file.
    fn note(&mut self, (bytes, outcome): (usize, io::Result<()>)) {
        self.held.drain(..bytes);
        self.whole -= bytes;
        let was_failing = self.status.failing.swap(outcome.is_err(), Ordering::AcqRel);
        let path = self.path.display();
        match outcome {
            Ok(()) if was_failing => {
                log::info!("{path}: can be written to again; {} lines were lost", self.status.lost());
            }
            Ok(()) => {}
            Err(error) => {
                self.status.errors.fetch_add(1, Ordering::AcqRel);
                self.next_look = Instant::now() + RETRY;
                if !was_failing {
                    log::error!(
                        "cannot write to {path}: {error}; {} MiB of lines are held, what comes after is lost and counted, \
                         and it is tried again each second",
                        MAX_HELD >> 20
                    );
                }
            }
        }
    }

    /// Writes to a pipe, whose reader is waited for until the agent stops.
    fn write_stream(&mut self) -> io::Result<()> {
        let Place::Stream(stream) = &mut self.place else { return Ok(()) };
        let (mut done, mut hanging) = (0, None);
        while done < self.whole {
            if !can_take(stream)? {
                let since = *hanging.get_or_insert_with(Instant::now);
                if !self.status.stopping.load(Ordering::Acquire) {
                    hanging = None;
                } else if since.elapsed() > STOP_LIMIT {
                    log::error!("the reader of {} takes nothing; it is left", self.path.display());
                    self.given_up = true;
                    break;
                }
                continue;
            }
            hanging = None;
            let end = self.whole.min(done + PIPE_WRITE);
            match stream.write(&self.held[done..end]) {
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.held.drain(..done);
        self.whole -= done;
        if self.given_up {
            self.lose();
        }
        Ok(())
    }

    /// Counts whole lines as lost.
    fn lose(&mut self) {
        let lines = self.held[..self.whole].iter().filter(|byte| **byte == b'\n').count();
        self.status.lost.fetch_add(lines as u64, Ordering::AcqRel);
        self.held.drain(..self.whole);
        self.whole = 0;
    }

    /// Writes what is left, for the last time; what cannot be written is counted as lost.
    fn finish(&mut self) {
        if let Err(error) = self.write_out(true) {
            log::error!("cannot write to {}: {error}", self.path.display());
        }
        self.lose();
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if let Some(last) = bytes.iter().rposition(|byte| *byte == b'\n') {
            let whole = self.held.len() - bytes.len() + last + 1;
            if whole > MAX_HELD {
                // Of those that are held the oldest are kept: what comes first is what explains the rest.
                let lines = self.held[self.whole..whole].iter().filter(|byte| **byte == b'\n').count();
                self.status.lost.fetch_add(lines as u64, Ordering::AcqRel);
                self.held.drain(self.whole..whole);
            } else {
                self.whole = whole;
            }
            self.status.held.store(self.whole as u64, Ordering::Release);
            if self.whole >= BUFFER {
                self.write_out(false)?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.maintain()?;
        let written = self.write_out(false);
        self.status.held.store(self.whole as u64, Ordering::Release);
        written
    }
}

/// Whether a log can be written at this path. Nothing is made or changed, and no reader of a FIFO is waited for.
///
/// # Errors
/// It cannot, or another process writes to it.
pub fn check_writable(path: &Path) -> Result<()> {
    if path == Path::new("-") {
        return Ok(());
    }
    let shown = path.display();
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {
            let file = append(path)?;
            ensure!(
                flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
                "another process writes to {shown}; stop it first, or name another file"
            );
            Ok(())
        }
        Ok(found) => {
            ensure!(!found.is_dir(), "cannot write to {shown}: it is a folder; name a file");
            Ok(())
        }
        Err(_) => {
            let folder =
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            ensure!(
                folder.is_dir(),
                "cannot write to {shown}: there is no folder {}; make it first",
                folder.display()
            );
            rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)
                .with_context(|| format!("cannot write to {shown}: a file cannot be made there"))
        }
    }
}

/// Opens the file of this name at its end, locks it, and ends a line that a writer before has torn.
fn open_place(path: &Path) -> Result<Place> {
    let mut file = append(path)?;
    if !file.metadata().with_context(|| format!("cannot look at {}", path.display()))?.is_file() {
        return place_of(file);
    }
    ensure!(
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
        "another process writes to {}; stop it first, or name another file",
        path.display()
    );
    if ends_torn(&mut file) {
        log::warn!("{}: its last line is torn, as a crash leaves it; it is ended", path.display());
        file.write_all(b"\n").with_context(|| format!("cannot write to {}", path.display()))?;
    }
    Ok(Place::File(file))
}

fn append(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.create(true).append(true);
    // Its last byte is looked at, where that is allowed.
    options
        .clone()
        .read(true)
        .open(path)
        .or_else(|_| options.open(path))
        .with_context(|| format!("cannot write to {}", path.display()))
}

/// Pipes, sockets and terminals are streams; their writer waits.
fn place_of(file: File) -> Result<Place> {
    let kind = file.metadata().context("cannot look at the log")?.file_type();
    let terminal = kind.is_char_device() && file.is_terminal();
    Ok(if kind.is_fifo() || kind.is_socket() || terminal { Place::Stream(file) } else { Place::File(file) })
}

/// True if there is a last line without an end.
fn ends_torn(file: &mut File) -> bool {
    let mut last = [0];
    file.seek(SeekFrom::End(-1)).is_ok() && file.read_exact(&mut last).is_ok() && last != *b"\n"
}

/// Writes whole lines. Where it fails, what was written of the first line that is not whole is taken back. Returns how many
/// bytes are in the file.
fn write_whole(file: &mut File, lines: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < lines.len() {
        match file.write(&lines[done..]) {
            Ok(0) => return take_back(file, lines, done, io::ErrorKind::WriteZero.into()),
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return take_back(file, lines, done, error),
        }
    }
    (done, Ok(()))
}

fn take_back(file: &mut File, lines: &[u8], done: usize, error: io::Error) -> (usize, io::Result<()>) {
    let whole = lines[..done].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let torn = (done - whole) as u64;
    if torn == 0 {
        return (whole, Err(error));
    }
    // It was appended: the torn part is what the file ends with.
    let taken = file.metadata().and_then(|found| file.set_len(found.len().saturating_sub(torn)));
    // Where it cannot be taken back, the rest of the line follows when there is room.
    (if taken.is_ok() { whole } else { done }, Err(error))
}

/// Waits a moment until a pipe can take something; false if it cannot.
fn can_take(stream: &File) -> io::Result<bool> {
    let mut wanted = [PollFd::new(stream, PollFlags::OUT)];
    let wait = Timespec { tv_sec: 0, tv_nsec: PIPE_WAIT.subsec_nanos().into() };
    match poll(&mut wanted, Some(&wait)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Puts a table that is in the way aside, under a name with the time of its last change: a table cannot be appended to.
///
/// # Errors
/// It cannot be renamed.
pub fn put_aside(path: &Path) -> Result<()> {
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    if !found.is_file() || found.len() == 0 {
        return Ok(());
    }
    let changed = found.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
    let stamp = changed.unwrap_or_default().strftime("%Y%m%dT%H%M%SZ").to_string();
    let [stem, extension] = [path.file_stem(), path.extension()]
        .map(|part| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default());
    for number in 0_u32.. {
        let number = if number == 0 { String::new() } else { format!("-{number}") };
        let aside = path.with_file_name(format!("{stem}-{stamp}{number}.{extension}"));
        if !aside.exists() {
            fs::rename(path, &aside).with_context(|| format!("cannot put {} aside", path.display()))?;
            log::warn!("{} was there already; it is {} now", path.display(), aside.display());
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    /// A folder that is removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("flowmeter-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn opened(path: &Path, follow: bool) -> (LogFile, Arc<LogStatus>) {
        let status = Arc::new(LogStatus::default());
        let mut log = LogFile::prepare(path, Arc::clone(&status), follow).expect("a log");
        log.open().expect("an open log");
        (log, status)
    }

    fn lines(log: &mut LogFile, text: &str) {
        log.write_all(text.as_bytes()).expect("lines");
        log.flush().expect("flushed");
    }

    #[test]
    fn what_was_there_stays_and_a_torn_line_is_ended() {
        let folder = Folder::new("append");
        let path = folder.0.join("log");
        fs::write(&path, "one\ntor").expect("a file");
        let (mut log, _) = opened(&path, false);
        lines(&mut log, "two\n");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "one\ntor\ntwo\n");
    }

    #[test]
    fn nothing_is_touched_before_it_is_opened_and_a_second_writer_is_refused() {
        let folder = Folder::new("lock");
        let path = folder.0.join("log");
        let _prepared = LogFile::prepare(&path, Arc::default(), false).expect("a log");
        assert!(!path.exists());
        let (_log, _) = opened(&path, false);
        let mut second = LogFile::prepare(&path, Arc::default(), false).expect("a log");
        let refused = format!("{:#}", second.open().expect_err("two writers"));
        assert!(refused.contains("another process"), "{refused}");
        for wrong in [folder.0.clone(), folder.0.join("none/log")] {
            assert!(LogFile::prepare(&wrong, Arc::default(), false).is_err(), "{}", wrong.display());
        }
    }

    #[test]
    fn a_rotated_file_is_left_when_told_to_or_when_noticed() {
        for follow in [false, true] {
            let folder = Folder::new(if follow { "follow" } else { "reopen" });
            let path = folder.0.join("log");
            let (mut log, status) = opened(&path, follow);
            lines(&mut log, "one\n");
            fs::rename(&path, folder.0.join("log.1")).expect("renamed");
            if follow {
                log.next_look = Instant::now();
            } else {
                status.reopen();
            }
            log.maintain().expect("maintained");
            lines(&mut log, "two\n");
            assert_eq!(fs::read_to_string(folder.0.join("log.1")).expect("the old"), "one\n", "{follow}");
            assert_eq!(fs::read_to_string(&path).expect("the new"), "two\n", "{follow}");
        }
    }

    #[test]
    fn after_copytruncate_lines_begin_at_the_beginning() {
        let folder = Folder::new("copytruncate");
        let path = folder.0.join("log");
        let (mut log, _) = opened(&path, false);
        lines(&mut log, "one\n");
        File::options().write(true).truncate(true).open(&path).expect("truncated");
        lines(&mut log, "two\n");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "two\n");
    }

    /// `/dev/full` is a disk without room (full(4)).
    #[test]
    fn a_full_disk_is_counted_and_loses_only_what_cannot_be_held() {
        let (mut log, status) = opened(Path::new("/dev/full"), false);
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..(MAX_HELD >> 10) + 5 {
            log.write_all(line.as_bytes()).expect("held or lost");
        }
        log.flush().expect("held");
        assert!(status.failing() && status.errors() > 0);
        assert_eq!(status.lost(), 5);
        // There is room again.
        let folder = Folder::new("full");
        let path = folder.0.join("log");
        log.place = open_place(&path).expect("a file");
        log.next_look = Instant::now();
        log.maintain().expect("written");
        lines(&mut log, "last\n");
        assert!(!status.failing());
        let text = fs::read_to_string(&path).expect("a file");
        assert_eq!(text.lines().count(), (MAX_HELD >> 10) + 1);
        assert!(text.ends_with("x\nlast\n"));
        drop(log);
        assert_eq!(status.lost(), 5);
    }

    #[test]
    fn what_was_written_of_a_line_is_taken_back() {
        let folder = Folder::new("torn");
        let path = folder.0.join("log");
        let mut file = append(&path).expect("a file");
        file.write_all(b"one\ntw").expect("written");
        let (bytes, outcome) = take_back(&mut file, b"one\ntwo\n", 6, io::ErrorKind::StorageFull.into());
        assert!(outcome.is_err() && bytes == 4);
        assert_eq!(fs::read_to_string(&path).expect("a file"), "one\n");
    }

    #[test]
    fn a_reader_that_hangs_does_not_keep_the_agent_from_stopping() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let status = Arc::new(LogStatus::default());
        let mut log = LogFile::prepare(Path::new("-"), Arc::clone(&status), false).expect("a log");
        log.place = place_of(File::from(OwnedFd::from(writer))).expect("a pipe");
        assert!(matches!(log.place, Place::Stream(_)));
        status.stop();
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..200 {
            log.write_all(line.as_bytes()).expect("written or lost");
        }
        let begun = Instant::now();
        drop(log);
        assert!(begun.elapsed() < STOP_LIMIT * 2);
        // A pipe has room for 64 KiB.
        assert!((100..200).contains(&status.lost()), "{}", status.lost());
        drop(reader);
    }

    #[test]
    fn a_table_in_the_way_is_put_aside() {
        let folder = Folder::new("aside");
        let path = folder.0.join("flows.parquet");
        for round in 1..=3 {
            fs::write(&path, format!("table {round}")).expect("a table");
            put_aside(&path).expect("put aside");
            assert!(!path.exists());
            assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), round);
        }
    }
}
