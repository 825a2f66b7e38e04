//! The configuration file of `live`, and the environment: further places to type options in.
//!
//! Each option of `live` is a key of the file under its long name. What is typed counts more than the environment
//! (`FLOWMETER_` and the name in capitals), and that more than the file. All three become words of one command line, so that
//! an option has one definition, one check and one default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches as _};
use toml::{Table, Value};

use crate::cli::{self, Cli};

/// The file that is read if it is there and no other is named.
pub const DEFAULT_FILE: &str = "/etc/flowmeter/flowmeter.toml";

/// Reads the command line, with the environment and the configuration file where the subcommand takes them.
///
/// # Errors
/// The file or a variable is wrong. What clap refuses ends the process, as it does without a file.
pub fn parse(
    command: Command,
    typed: Vec<OsString>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Cli> {
    try_parse(command, typed, variable).map_err(|error| match error.downcast::<clap::Error>() {
        Ok(refused) => refused.exit(),
        Err(error) => error,
    })
}

/// As [`parse`], and ends no process: what clap refuses is an error, too.
///
/// # Errors
/// Anything is wrong.
pub fn try_parse(
    command: Command,
    typed: Vec<OsString>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Cli> {
    // What the file may still give is not missing yet.
    let matches = lenient(command.clone()).try_get_matches_from(&typed)?;
    let words = match matches.subcommand() {
        Some((name @ ("live" | "doctor"), given)) => layered(&typed, name, given, variable)?,
        _ => typed,
    };
    Ok(Cli::from_arg_matches(&command.try_get_matches_from(words)?)?)
}

/// The command line without what must be there.
fn lenient(command: Command) -> Command {
    command.mut_subcommand("live", |live| live.mut_args(|arg| arg.required(false)))
}

/// The options of `live` that a file can have.
fn options() -> Vec<Arg> {
    let mut command = cli::command();
    command.build();
    let Some(live) = command.find_subcommand("live") else { return Vec::new() };
    let global = |arg: &Arg| arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "config");
    live.get_arguments().filter(|arg| !global(arg) && arg.get_long().is_some()).cloned().collect()
}

/// The typed words, with those of the environment and the file before them.
fn layered(
    typed: &[OsString],
    subcommand: &str,
    live: &ArgMatches,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<OsString>> {
    let table = match live.get_one::<PathBuf>("config") {
        Some(path) => read(path)?,
        None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
        None => Table::new(),
    };
    let is_typed = |arg: &Arg| live.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let mut words = Vec::new();
    for arg in options().iter().filter(|arg| !is_typed(arg)) {
        let name = arg.get_long().unwrap_or_default();
        let from_environment = format!("FLOWMETER_{}", name.to_uppercase().replace('-', "_"));
        match (variable(&from_environment), table.get(name)) {
            (Some(text), _) => words.extend(
                of_text(arg, name, &text)
                    .with_context(|| format!("environment variable {from_environment}"))?,
            ),
            (None, Some(value)) => words.extend(of_value(arg, name, value)?),
            (None, None) => {}
        }
    }
    // After the name of the program and of the subcommand, wherever that stands.
    let at = typed.iter().position(|word| word == subcommand).map_or(typed.len(), |at| at + 1);
    Ok(typed[..at].iter().cloned().chain(words).chain(typed[at..].iter().cloned()).collect())
}

/// Reads a file, all of whose keys must be options.
///
/// # Errors
/// It cannot be read, is no TOML, or has a key that is no option; the message names the nearest.
pub fn read(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: Table = text.parse().map_err(|error| anyhow!("{}: {error}", path.display()))?;
    check(&table).with_context(|| path.display().to_string())?;
    Ok(table)
}

fn check(table: &Table) -> Result<()> {
    let options = options();
    for (key, value) in table {
        let Some(arg) = options.iter().find(|arg| arg.get_long() == Some(key)) else {
            let nearest = options
                .iter()
                .filter_map(Arg::get_long)
                .map(|name| (strsim::jaro_winkler(name, key), name))
                .max_by(|a, b| a.0.total_cmp(&b.0));
            match nearest {
                Some((near, name)) if near > 0.7 => bail!("unknown key `{key}`; there is `{name}`"),
                _ => bail!("unknown key `{key}`; keys are the long options of `flowmeter live --help`"),
            }
        };
        of_value(arg, key, value)?;
    }
    Ok(())
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The words of a key's value.
fn of_value(arg: &Arg, name: &str, value: &Value) -> Result<Vec<OsString>> {
    let several = matches!(arg.get_action(), ArgAction::Append);
    match value {
        Value::Boolean(on) if is_flag(arg) => Ok(flag(name, *on)),
        _ if is_flag(arg) => bail!("key `{name}`: expected true or false, not {value}"),
        Value::Array(all) if several => {
            all.iter().map(|value| Ok(option(name, &text_of(name, value)?))).collect()
        }
        Value::Array(_) => bail!("key `{name}` takes one value, not a list"),
        value => Ok(vec![option(name, &text_of(name, value)?)]),
    }
}

/// The words of a variable's text; commas separate several values.
fn of_text(arg: &Arg, name: &str, text: &str) -> Result<Vec<OsString>> {
    if is_flag(arg) {
        ensure!(matches!(text, "true" | "false"), "expected true or false, not {text:?}");
        return Ok(flag(name, text == "true"));
    }
    match arg.get_action() {
        ArgAction::Append => Ok(text.split(',').map(|text| option(name, text.trim())).collect()),
        _ => Ok(vec![option(name, text)]),
    }
}

fn text_of(name: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        _ => bail!("key `{name}`: expected a text or a number, not {value}"),
    }
}

fn flag(name: &str, on: bool) -> Vec<OsString> {
    if on { vec![format!("--{name}").into()] } else { Vec::new() }
}

fn option(name: &str, text: &str) -> OsString {
    format!("--{name}={text}").into()
}

/// What is in force with this file and the environment, as a file.
///
/// # Errors
/// As [`parse`].
pub fn effective(path: Option<&Path>, variable: &dyn Fn(&str) -> Option<String>) -> Result<Table> {
    let mut typed: Vec<OsString> = vec!["flowmeter".into(), "live".into()];
    if let Some(path) = path {
        typed.extend(["--config".into(), path.into()]);
    }
    in_force(&typed, variable)
}

/// Every option of `live` as these words, the file and the environment have it.
///
/// # Errors
/// As [`parse`].
pub fn in_force(typed: &[OsString], variable: &dyn Fn(&str) -> Option<String>) -> Result<Table> {
    let matches = lenient(cli::command()).try_get_matches_from(typed)?;
    let live = matches.subcommand_matches("live").context("no subcommand")?;
    let matches = lenient(cli::command()).try_get_matches_from(layered(typed, "live", live, variable)?)?;
    let live = matches.subcommand_matches("live").context("no subcommand")?;
    let mut table = Table::new();
    for arg in options() {
        let name = arg.get_long().unwrap_or_default().to_owned();
        let id = arg.get_id().as_str();
        if is_flag(&arg) {
            table.insert(name, Value::Boolean(live.get_flag(id)));
        } else if let Some(raw) = live.get_raw(id) {
            let mut all: Vec<Value> =
                raw.map(|text| Value::String(text.to_string_lossy().into_owned())).collect();
            match arg.get_action() {
                ArgAction::Append => table.insert(name, Value::Array(all)),
                _ => all.pop().and_then(|value| table.insert(name, value)),
            };
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, LiveArgs, ModeArg};

    /// What `live` is told by a file, variables and words.
    fn live(file: &str, variables: &[(&str, &str)], words: &[&str]) -> Result<LiveArgs> {
        let name = format!("flowmeter-config-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, file)?;
        let typed = ["flowmeter", "live", "--config"].iter().map(OsString::from);
        let typed = typed.chain([path.clone().into()]).chain(words.iter().map(OsString::from)).collect();
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        };
        let cli = parse(cli::command(), typed, &variable);
        std::fs::remove_file(&path)?;
        match cli?.command {
            Command::Live(args) => Ok(args),
            other => bail!("{other:?}"),
        }
    }

    #[test]
    fn typed_words_come_before_the_environment_and_that_before_the_file() {
        let file = "interface = [\"eth0\", \"eth1\"]\nmax-flows = 1000\nmode = \"mirror\"\ninspector = \"ids0\"\nno-egress = true\n";
        let args = live(file, &[], &[]).expect("a configuration");
        assert_eq!((args.interface.len(), args.max_flows, args.no_egress), (2, 1000, true));
        assert_eq!(args.prefilter.mode, ModeArg::Mirror);
        let variables = [("FLOWMETER_MAX_FLOWS", "2000"), ("FLOWMETER_INTERFACE", "eth2, eth3,eth4")];
        let args = live(file, &variables, &[]).expect("a configuration");
        assert_eq!((args.interface.len(), args.max_flows), (3, 2000));
        let args = live(file, &variables, &["-i", "eth5", "--max-flows", "3000"]).expect("a configuration");
        assert_eq!((args.interface, args.max_flows), (vec!["eth5".to_owned()], 3000));
    }

    #[test]
    fn the_packaged_file_wants_nothing_but_an_interface() {
        let packaged = include_str!("../../../deploy/package/flowmeter.toml");
        live(packaged, &[], &["-i", "eth0"]).expect("the packaged file, with an interface");
        // Every example in it can be taken by removing the mark.
        let uncommented: String = packaged
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n"
            })
            .collect();
        let args = live(&uncommented, &[], &[]).expect("its examples");
        assert_eq!(args.interface, ["eth0"]);
        assert!(args.metrics.is_some() && args.socket.is_some() && args.reopen);
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (file, part) in [
            ("interfaec = \"eth0\"", "there is `interface`"),
            ("colour = \"red\"", "unknown key `colour`"),
            ("no-egress = \"yes\"", "expected true or false"),
            ("max-flows = [1, 2]", "one value"),
            ("max-flows = { a = 1 }", "a text or a number"),
            ("max-flows", "TOML"),
        ] {
            let problem = format!("{:#}", live(file, &[], &["-i", "eth0"]).expect_err(part));
            assert!(problem.contains(part) && problem.contains("flowmeter-config"), "{file}: {problem}");
        }
        let problem = live("", &[("FLOWMETER_NO_EGRESS", "maybe")], &["-i", "eth0"]).expect_err("a flag");
        assert!(format!("{problem:#}").contains("FLOWMETER_NO_EGRESS"), "{problem:#}");
    }
}
