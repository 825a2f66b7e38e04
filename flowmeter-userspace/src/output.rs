//! Where results go: no command writes over what it reads, nor over an earlier result before the new one is whole.
//!
//! A file is written beside its place under another name and renamed when it is complete. Pipes and devices are written as
//! they are, since nothing of theirs can be lost.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};

/// Links that are followed to the place of a result, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// Bytes handed to the system at a time.
const CHUNK: usize = 1 << 16;

/// Files that have been begun and are not complete, for whoever ends the process early.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Device and inode: the same for all names and links of a file.
type FileId = (u64, u64);

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// The files that a command reads, whatever names they were given by.
#[derive(Debug, Default)]
pub struct Inputs(Vec<(FileId, String)>);

impl Inputs {
    /// Of these paths. `-` is the standard input; what is not there is not protected, and named when it is opened.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut inputs = Self::default();
        for path in paths {
            inputs.add(path);
        }
        inputs
    }

    /// Adds a path.
    pub fn add(&mut self, path: &Path) {
        let metadata = match path.as_os_str() == "-" {
            true => fs::metadata("/dev/stdin"),
            false => fs::metadata(path),
        };
        // Pipes and devices cannot be written over.
        if let Ok(metadata) = metadata
            && metadata.is_file()
        {
            self.0.push((id(&metadata), path.display().to_string()));
        }
    }

    /// Refuses an output that is one of the inputs.
    ///
    /// # Errors
    /// It is.
    pub fn refuse(&self, output: &Path) -> Result<()> {
        let metadata = match is_standard_output(output) {
            true => fs::metadata("/dev/stdout"),
            false => fs::metadata(output),
        };
        let Ok(metadata) = metadata else { return Ok(()) };
        match self.0.iter().find(|(input, _)| *input == id(&metadata)) {
            Some((_, name)) => bail!(
                "the output {} is the same file as the input {name}: name another output",
                output.display()
            ),
            None => Ok(()),
        }
    }
}

/// True for `-`, and for what the system calls the standard output.
pub fn is_standard_output(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}

/// Refuses to write what is no text onto a terminal.
///
/// # Errors
/// The output is a terminal.
pub fn refuse_terminal(output: &Path, format: &str) -> Result<()> {
    let is_terminal = match is_standard_output(output) {
        true => io::stdout().is_terminal(),
        // Opening a pipe would wait for its reader.
        false => {
            fs::metadata(output).is_ok_and(|metadata| metadata.file_type().is_char_device())
                && File::open(output).is_ok_and(|file| file.is_terminal())
        }
    };
    ensure!(
        !is_terminal,
        "{format} is not text and would garble the terminal: write it to a file with --output FILE"
    );
    Ok(())
}

/// A result on its way to its place.
#[derive(Debug)]
#[must_use = "a result that is not kept is removed"]
pub struct Pending {
    /// None where it is written as it is.
    unfinished: Option<Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    file: File,
    temporary: PathBuf,
    place: PathBuf,
}

/// Opens a place for a result: a file, a pipe, a device, or the standard output (`-`).
///
/// # Errors
/// It is one of the inputs, or cannot be written to.
pub fn create(path: &Path, inputs: &Inputs) -> Result<(Box<dyn Write + Send>, Pending)> {
    inputs.refuse(path)?;
    let (writer, unfinished): (Box<dyn Write + Send>, _) = if is_standard_output(path) {
        (Box::new(io::stdout()), None)
    } else if writes_through(path) {
        let file = File::options().append(true).open(path);
        (Box::new(file.with_context(|| format!("cannot write to {}", path.display()))?), None)
    } else {
        let unfinished = beside(path).with_context(|| format!("cannot write to {}", path.display()))?;
        (Box::new(unfinished.file.try_clone()?), Some(unfinished))
    };
    Ok((Box::new(BufWriter::with_capacity(CHUNK, writer)), Pending { unfinished }))
}

/// Writes a text to a file, or to the standard output.
///
/// # Errors
/// As [`create`].
pub fn write(path: &Path, inputs: &Inputs, text: &str) -> Result<()> {
    let (mut out, pending) = create(path, inputs)?;
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.with_context(|| format!("cannot write to {}", path.display()))?;
    pending.keep()
}

/// Removes what has been begun and will not be completed: the process is about to end.
pub fn abandon_all() {
    for path in UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = fs::remove_file(path);
    }
}

/// True for pipes, devices and sockets, and for what a descriptor of this process names.
fn writes_through(path: &Path) -> bool {
    path.starts_with("/dev/fd")
        || path.starts_with("/proc")
        || fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// The place that a path leads to over links, so that a link stays one.
fn destination(path: &Path) -> Result<PathBuf> {
    let mut place = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&place) {
            Ok(target) => place = place.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(place),
        }
    }
    bail!("it is a link that leads nowhere")
}

/// A new file beside the place of a result, with the rights of what stands there.
fn beside(path: &Path) -> Result<Unfinished> {
    let place = destination(path)?;
    let name = place.file_name().context("it names no file")?;
    let before = fs::metadata(&place).ok();
    ensure!(!before.as_ref().is_some_and(Metadata::is_dir), "it is a directory");
    // What must not be written may not be replaced, either.
    if before.is_some() {
        File::options().append(true).open(&place)?;
    }
    for number in 0_u32.. {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{number}.partial", std::process::id()));
        let temporary = place.with_file_name(hidden);
        match File::options().write(true).create_new(true).open(&temporary) {
            Ok(file) => {
                UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push(temporary.clone());
                if let Some(before) = before {
                    // Best effort: only root may give a file away.
                    let _ = file.set_permissions(before.permissions());
                    let _ = std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()));
                }
                return Ok(Unfinished { file, temporary, place });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(error).context("a new file must be made beside it until the result is whole");
            }
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("there are more numbers than files")
}

impl Pending {
    /// The result is whole and goes to its place. Everything has been handed to the system before.
    ///
    /// # Errors
    /// It cannot be stored or renamed; what stood there before stays.
    pub fn keep(mut self) -> Result<()> {
        let Some(Unfinished { file, temporary, place }) = &self.unfinished else { return Ok(()) };
        file.sync_all().with_context(|| format!("cannot store {}", place.display()))?;
        fs::rename(temporary, place)
            .with_context(|| format!("cannot put the result at {}", place.display()))?;
        forget(temporary);
        self.unfinished = None;
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(Unfinished { temporary, .. }) = &self.unfinished {
            let _ = fs::remove_file(temporary);
            forget(temporary);
        }
    }
}

fn forget(temporary: &Path) {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| path != temporary);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A folder of its own for a test, removed afterwards.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("flowmeter-output-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).expect("a folder for the test");
            Self(path)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).expect("a file for the test");
            path
        }

        /// The names in it.
        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(&self.0)
                .expect("the folder")
                .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_input_is_refused_under_every_name() {
        let folder = Folder::new("refused");
        let input = folder.file("in", "precious");
        let (hard, soft, chain) = (folder.0.join("hard"), folder.0.join("soft"), folder.0.join("chain"));
        fs::hard_link(&input, &hard).expect("a hard link");
        symlink("in", &soft).expect("a link");
        symlink("soft", &chain).expect("a link");
        let inputs = Inputs::of([input.as_path()]);
        let dotted = folder.0.join(".").join("in");
        for output in [&input, &hard, &soft, &chain, &dotted] {
            let problem = write(output, &inputs, "x").expect_err("an input").to_string();
            assert!(problem.contains("same file as the input"), "{problem}");
        }
        // The input may have been named by the link, too.
        assert!(Inputs::of([soft.as_path()]).refuse(&input).is_err());
        assert_eq!(fs::read_to_string(&input).expect("the input"), "precious");
        assert_eq!(folder.names(), ["chain", "hard", "in", "soft"]);
    }

    #[test]
    fn an_earlier_result_stays_until_the_new_one_is_whole() {
        let folder = Folder::new("whole");
        let place = folder.file("result", "old");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o640)).expect("rights");
        let (mut out, pending) = create(&place, &Inputs::default()).expect("a place");
        out.write_all(b"new").and_then(|()| out.flush()).expect("room");
        assert_eq!(fs::read_to_string(&place).expect("the result"), "old");
        drop(pending);
        assert_eq!(folder.names(), ["result"]);
        assert_eq!(fs::read_to_string(&place).expect("the result"), "old");
        write(&place, &Inputs::default(), "new").expect("room");
        assert_eq!(fs::read_to_string(&place).expect("the result"), "new");
        assert_eq!(fs::metadata(&place).expect("the result").permissions().mode() & 0o777, 0o640);
        assert_eq!(folder.names(), ["result"]);
    }

    #[test]
    fn a_link_stays_a_link_and_what_it_names_is_replaced() {
        let folder = Folder::new("link");
        let target = folder.file("target", "old");
        let link = folder.0.join("link");
        symlink("target", &link).expect("a link");
        write(&link, &Inputs::default(), "new").expect("room");
        assert_eq!(fs::read_to_string(&target).expect("the target"), "new");
        assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
        let dangling = folder.0.join("dangling");
        symlink("later", &dangling).expect("a link");
        write(&dangling, &Inputs::default(), "made").expect("room");
        assert_eq!(fs::read_to_string(folder.0.join("later")).expect("the file"), "made");
    }

    #[test]
    fn devices_are_written_as_they_are_and_folders_are_refused() {
        write(Path::new("/dev/null"), &Inputs::default(), "x").expect("a device");
        let folder = Folder::new("folders");
        assert!(write(&folder.0, &Inputs::default(), "x").is_err());
        assert!(write(&folder.0.join("missing/file"), &Inputs::default(), "x").is_err());
        assert!(folder.names().is_empty());
    }
}
