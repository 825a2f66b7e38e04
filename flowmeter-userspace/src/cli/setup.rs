//! The arguments of `setup`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `setup`.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// The folder to install into; by default /usr/local/lib/flowmeter for root, and the user's data folder
    /// (~/.local/share/flowmeter) for others.
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Take the library out of this wheel, fetched on another machine, and use no network.
    #[arg(long, value_name = "FILE", conflicts_with = "library")]
    pub wheel: Option<PathBuf>,
    /// Take this library, and use no network.
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
}

impl SetupArgs {
    /// True if the library comes from a file.
    pub fn is_offline(&self) -> bool {
        self.wheel.is_some() || self.library.is_some()
    }
}
