//! What `doctor` found.

use anyhow::Result;
use serde::Serialize;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could.
    Warning,
    /// `live` does not work.
    Failed,
}

impl Severity {
    /// As it stands at the beginning of a line.
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok     ",
            Self::Warning => "warning",
            Self::Failed => "failed ",
        }
    }
}

/// What was found; of what is wrong the text says what to do.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// What was looked at.
    pub subject: String,
    /// How it is.
    pub state: Severity,
    /// In words.
    pub text: String,
}

/// All findings.
#[derive(Debug, Default)]
pub struct Diagnoses(pub Vec<Diagnosis>);

impl Diagnoses {
    /// It is as it should be.
    pub fn ok(&mut self, subject: &str, text: impl Into<String>) {
        self.add(subject, Severity::Ok, text.into());
    }

    /// It works, but not as well as it could.
    pub fn warning(&mut self, subject: &str, text: impl Into<String>) {
        self.add(subject, Severity::Warning, text.into());
    }

    /// `live` does not work.
    pub fn failed(&mut self, subject: &str, text: impl Into<String>) {
        self.add(subject, Severity::Failed, text.into());
    }

    /// Well, with this text, or what went wrong.
    pub fn result(&mut self, subject: &str, result: Result<String>) {
        match result {
            Ok(text) => self.ok(subject, text),
            Err(error) => self.failed(subject, format!("{error:#}")),
        }
    }

    fn add(&mut self, subject: &str, state: Severity, text: String) {
        self.0.push(Diagnosis { subject: subject.to_owned(), state, text });
    }
}
