//! The arguments of `model` and `features`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Arguments of `model`.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: ModelCommand,
}

/// The subcommands of `model`.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Check everything that the agent checks before it loads a model, and explain what is wrong.
    Check {
        /// The ONNX file.
        file: PathBuf,
        /// ONNX Runtime's shared library; by default the one that `flowmeter setup` installed.
        #[arg(long, value_name = "FILE")]
        onnxruntime: Option<PathBuf>,
    },
}

/// Arguments of `features`.
#[derive(Debug, Args)]
pub struct FeaturesArgs {
    /// Set to print [default: list all sets].
    #[arg(long, value_name = "ID")]
    pub set: Option<String>,
    /// A page for people, or JSON for programs.
    #[arg(long, value_enum, default_value = "markdown", requires = "set")]
    pub format: ReferenceArg,
}

/// How a feature set is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReferenceArg {
    /// A page with a table.
    Markdown,
    /// One object a column: role (identity or feature), name, type, unit, definition, undefined.
    Json,
}
