//! Embeds the kernel programs, and refuses to embed those of other sources.

use std::path::Path;
use std::{env, fs};

#[path = "../xtask/src/bpf_stamp.rs"]
mod bpf_stamp;

fn main() {
    if let Err(problem) = embed() {
        // Cargo shows what stands after this word, and nothing else of a build script that ends well.
        println!("cargo::error={problem}");
    }
}

fn embed() -> Result<(), String> {
    let manifest = env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?;
    let root = Path::new(&manifest).parent().ok_or("the crate lies in no workspace")?;
    let built = [bpf_stamp::OBJECT, bpf_stamp::TEST_OBJECT, bpf_stamp::STAMP];
    for path in bpf_stamp::SOURCES.into_iter().chain(built) {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let sources =
        bpf_stamp::fingerprint(root).map_err(|error| format!("the kernel programs' sources: {error}"))?;
    let built = fs::read_to_string(root.join(bpf_stamp::STAMP));
    if built.is_ok_and(|built| built == sources) {
        let out = env::var("OUT_DIR").map_err(|error| error.to_string())?;
        let object = root.join(bpf_stamp::OBJECT);
        return match fs::copy(&object, Path::new(&out).join("flowmeter.bpf.o")) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{}: {error}", object.display())),
        };
    }
    Err("the kernel programs are not built, or their sources have changed since; run: cargo xtask build"
        .to_owned())
}
