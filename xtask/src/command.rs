//! Runs other programs: says what is run, and in an error what to run by hand.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

/// The command line, as it would be typed, with the environment it is given.
fn typed(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        value.map(|value| format!("{}={}", name.to_string_lossy(), quoted(value)))
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into_owned() } else { format!("'{word}'") }
}

/// Runs a command to its end, with its output where ours goes.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{}`; run it by hand to see why", typed(command)))?;
    if !status.success() {
        bail!("this failed ({status}); run it by hand to see why:\n  {}", typed(command));
    }
    Ok(())
}

/// Says why, shows the command, and runs it: for whatever changes the machine.
pub fn install(why: &str, command: &mut Command) -> Result<()> {
    let (strong, plain) = if std::io::stderr().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    eprintln!("{strong}Installing{plain} {why}:\n  {}", typed(command));
    run(command)
}

/// What a command prints, or None if it is not there or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A program on the search path.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Where root's programs lie; not on the path of everybody.
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// True if this process is root's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command as root: by itself, or through sudo.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Becomes another program, as root if it is to attach something, so that its signals and exit code are its own.
pub fn hand_over(program: &Path, args: &[OsString]) -> Result<ExitCode> {
    let needs_root = program.file_name() == Some(OsStr::new("flowmeter-demo"))
        || args.first().is_some_and(|word| word == "live");
    let help = args.iter().any(|word| word == "--help" || word == "-h");
    let mut command = if needs_root && !help { as_root(program) } else { Command::new(program) };
    command.args(args);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", typed(&command)))
}
