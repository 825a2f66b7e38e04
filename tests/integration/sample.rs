//! Promise: the recorded sample is what its manifest says.

use anyhow::{Result, ensure};
use harness::replay::read_capture;
use harness::sample_folder;

#[test]
fn each_capture_has_the_packets_of_the_manifest() -> Result<()> {
    let manifest = std::fs::read_to_string(sample_folder().join("manifest.csv"))?;
    for line in manifest.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let frames = read_capture(&sample_folder().join(fields[0]))?;
        ensure!(
            frames.len().to_string() == fields[4],
            "{}: {} packets, the manifest says {}",
            fields[0],
            frames.len(),
            fields[4]
        );
    }
    Ok(())
}
