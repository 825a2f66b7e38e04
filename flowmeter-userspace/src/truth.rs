//! What is known about flows: a table whose rows say by which of a flow's fields they are meant.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;

use crate::flow_log::Row;

/// Columns by which a row can say which flows it means, in the order in which a log has them.
const FIELDS: [&str; 7] =
    ["observed", "community_id", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"];
/// The field that may be given by the end of its path.
const OBSERVED: usize = 0;
/// Columns that limit a row to flows that began then.
const TIMES: [&str; 2] = ["since", "until"];

/// What is known about a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KnownLabel {
    /// Malicious or benign; None if it is to be left out.
    pub malicious: Option<bool>,
    /// Network, collection or day that the flow is of.
    pub source: String,
    /// Kind of attack or of use.
    pub category: String,
}

impl KnownLabel {
    /// The label as it is written; None if the truth leaves the flow out.
    pub fn name(&self) -> Option<&'static str> {
        self.malicious.map(|malicious| if malicious { "malicious" } else { "benign" })
    }
}

/// Reads a label: malicious, benign, 1, 0, true, false; nothing, `ignore` or `unknown` leaves the flow open.
///
/// # Errors
/// It is another word.
pub fn label(text: Option<&str>) -> Result<Option<bool>> {
    let text = text.unwrap_or_default().trim();
    Ok(match text.to_ascii_lowercase().as_str() {
        "malicious" | "1" | "true" | "1.0" => Some(true),
        "benign" | "0" | "false" | "0.0" => Some(false),
        "" | "ignore" | "unknown" | "none" | "nan" => None,
        _ => bail!(
            "invalid label {text:?}: expected malicious (or 1), benign (or 0), or nothing to leave flows out"
        ),
    })
}

/// A row of the table.
#[derive(Clone, Debug)]
struct Statement {
    /// Nanoseconds since the Unix epoch.
    since: Option<i128>,
    until: Option<i128>,
    known: KnownLabel,
    line: u64,
}

/// Rows that name the same fields.
struct Level {
    /// Indices in [`FIELDS`].
    fields: Vec<usize>,
    statements: HashMap<Vec<String>, Vec<Statement>>,
}

/// The table.
pub struct Truth {
    /// Those that name most fields first.
    levels: Vec<Level>,
    rows: u64,
    timed: bool,
    /// Fields that any row names: the others of a flow need not be asked for.
    named: [bool; FIELDS.len()],
}

impl Truth {
    /// Reads a table.
    ///
    /// # Errors
    /// It cannot be read, has no label, or says two things of the same flows; the message names the line.
    pub fn read(path: &Path) -> Result<Self> {
        let file =
            std::fs::File::open(path).with_context(|| format!("cannot open the truth {}", path.display()))?;
        Self::from_reader(file).with_context(|| format!("the truth {} cannot be used", path.display()))
    }

    fn from_reader(input: impl std::io::Read) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
        let header = reader.headers()?.clone();
        let column = |name: &str| header.iter().position(|found| found == name);
        let label_column = column("label").with_context(|| {
            format!(
                "it has no column `label`; it needs `label`, may have `source` and `category`, and names flows by any of: {}, {}",
                FIELDS.join(", "),
                TIMES.join(", ")
            )
        })?;
        let fields = FIELDS.map(column);
        ensure!(
            fields.iter().any(Option::is_some),
            "it has none of the columns that name flows: {}",
            FIELDS.join(", ")
        );
        let (times, source, category) = (TIMES.map(column), column("source"), column("category"));
        let mut truth = Self { levels: Vec::new(), rows: 0, timed: false, named: [false; FIELDS.len()] };
        for record in reader.records() {
            let record = record?;
            let line = record.position().map_or(0, csv::Position::line);
            let cell =
                |column: Option<usize>| column.and_then(|i| record.get(i)).filter(|text| !text.is_empty());
            let place = || format!("line {line}");
            let malicious = label(record.get(label_column)).with_context(place)?;
            let time = |column| cell(column).map(|text| instant(text).with_context(place)).transpose();
            let [since, until] = [time(times[0])?, time(times[1])?];
            truth.timed |= since.is_some() || until.is_some();
            let (named, key): (Vec<usize>, Vec<String>) = fields
                .iter()
                .enumerate()
                .filter_map(|(i, column)| cell(*column).map(|text| (i, text.to_owned())))
                .unzip();
            let known = KnownLabel {
                malicious,
                source: cell(source)
                    .map_or_else(|| cell(fields[OBSERVED]).unwrap_or("all").to_owned(), str::to_owned),
                category: cell(category).unwrap_or("all").to_owned(),
            };
            truth.add(named, key, Statement { since, until, known, line })?;
        }
        ensure!(truth.rows != 0, "it has no rows");
        truth.levels.sort_by_key(|level| std::cmp::Reverse(level.fields.len()));
        Ok(truth)
    }

    fn add(&mut self, fields: Vec<usize>, key: Vec<String>, statement: Statement) -> Result<()> {
        self.rows += 1;
        for &field in &fields {
            self.named[field] = true;
        }
        let index = self.levels.iter().position(|level| level.fields == fields).unwrap_or_else(|| {
            self.levels.push(Level { fields, statements: HashMap::new() });
            self.levels.len() - 1
        });
        match self.levels[index].statements.entry(key) {
            Entry::Vacant(place) => drop(place.insert(vec![statement])),
            Entry::Occupied(mut found) => {
                let same =
                    |other: &&Statement| (other.since, other.until) == (statement.since, statement.until);
                match found.get().iter().find(same) {
                    Some(other) if other.known == statement.known => {}
                    Some(other) => bail!(
                        "lines {} and {} name the same flows and say different things of them",
                        other.line,
                        statement.line
                    ),
                    None => found.get_mut().push(statement),
                }
            }
        }
        Ok(())
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// What is known about a flow: of the rows that mean it, the one that names most fields; of those the first.
    pub fn of(&self, row: &dyn Row) -> Option<&KnownLabel> {
        let mut fields = FIELDS.map(|_| None);
        for (i, name) in FIELDS.into_iter().enumerate().filter(|(i, _)| self.named[*i]) {
            fields[i] = row.text(name);
        }
        let time = self.timed.then(|| row.text("timestamp").and_then(|text| instant(&text).ok())).flatten();
        self.levels.iter().find_map(|level| {
            let mut key = Vec::with_capacity(level.fields.len());
            for &field in &level.fields {
                key.push(fields[field].as_ref().map(Cow::to_string)?);
            }
            loop {
                let found = level.statements.get(&key).and_then(|statements| {
                    statements.iter().find(|s| {
                        s.since.is_none_or(|since| time.is_some_and(|time| time >= since))
                            && s.until.is_none_or(|until| time.is_some_and(|time| time < until))
                    })
                });
                if let Some(statement) = found {
                    return Some(&statement.known);
                }
                // A path is also named by its end: /data/monday/a.pcap by monday/a.pcap or a.pcap.
                if level.fields.first() != Some(&OBSERVED) {
                    return None;
                }
                let shorter = key[0].split_once('/').map(|(_, rest)| rest.to_owned())?;
                key[0] = shorter;
            }
        })
    }
}

/// A time: RFC 3339, or seconds since the Unix epoch.
fn instant(text: &str) -> Result<i128> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok((seconds * 1e9) as i128);
    }
    let time: Timestamp = text.parse().map_err(|_| {
        anyhow::anyhow!("invalid time {text:?}: expected 2026-11-23T09:00:00Z, or seconds since 1970")
    })?;
    Ok(time.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TestFlow(&'static [(&'static str, &'static str)]);

    impl Row for TestFlow {
        fn text(&self, column: &str) -> Option<Cow<'_, str>> {
            self.0.iter().find(|(name, _)| *name == column).map(|(_, text)| Cow::Borrowed(*text))
        }
    }

    fn truth(text: &str) -> Truth {
        Truth::from_reader(text.as_bytes()).unwrap()
    }

    fn malicious(truth: &Truth, flow: &'static [(&'static str, &'static str)]) -> Option<bool> {
        truth.of(&TestFlow(flow)).and_then(|known| known.malicious)
    }

    #[test]
    fn the_row_that_names_most_fields_counts() {
        let truth = truth(
            "observed,src_ip,dst_port,label\nday.pcap,,,benign\nday.pcap,10.0.0.9,,1\n,10.0.0.9,53,0\n",
        );
        assert_eq!(malicious(&truth, &[("observed", "/data/day.pcap"), ("src_ip", "10.0.0.1")]), Some(false));
        assert_eq!(malicious(&truth, &[("observed", "/data/day.pcap"), ("src_ip", "10.0.0.9")]), Some(true));
        assert_eq!(malicious(&truth, &[("src_ip", "10.0.0.9"), ("dst_port", "53")]), Some(false));
        assert_eq!(truth.of(&TestFlow(&[("observed", "other.pcap")])), None);
    }

    #[test]
    fn paths_are_named_by_whole_parts_of_their_end() {
        let truth = truth("observed,label\nb/day.pcap,1\nday.pcap,0\n");
        assert_eq!(malicious(&truth, &[("observed", "/a/b/day.pcap")]), Some(true));
        assert_eq!(malicious(&truth, &[("observed", "/a/c/day.pcap")]), Some(false));
        assert_eq!(truth.of(&TestFlow(&[("observed", "/a/monday.pcap")])), None);
    }

    #[test]
    fn times_bound_a_row() {
        let truth = truth(
            "src_ip,since,until,label\n10.0.0.9,2026-01-01T10:00:00Z,2026-01-01T11:00:00Z,1\n10.0.0.9,,,0\n",
        );
        for (time, expected) in [
            ("2026-01-01T09:59:59.9Z", false),
            ("2026-01-01T10:00:00Z", true),
            ("2026-01-01T10:59:59Z", true),
            ("2026-01-01T11:00:00Z", false),
        ] {
            let flow = vec![("src_ip", "10.0.0.9"), ("timestamp", time)].leak();
            assert_eq!(malicious(&truth, flow), Some(expected), "{time}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, expected) in [
            ("observed\nday.pcap\n", "no column `label`"),
            ("label\n1\n", "none of the columns"),
            ("observed,label\n", "no rows"),
            ("observed,label\nday.pcap,evil\n", "line 2"),
            ("observed,label\nday.pcap,1\nday.pcap,0\n", "lines 2 and 3"),
            ("observed,since,label\nday.pcap,noon,1\n", "line 2"),
        ] {
            let said = match Truth::from_reader(text.as_bytes()) {
                Ok(_) => "nothing".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            assert!(said.contains(expected), "{text:?}: {said}");
        }
    }
}
