//! The container image, as an OCI image layout in an archive (image-spec 1.0), made without a daemon.
//!
//! One layer has the agent, ONNX Runtime's library, and the libraries of the C and C++ runtimes that both ask for, as they
//! are on the building machine. `skopeo copy oci-archive:FILE docker://...` puts it into a registry; podman and docker load
//! it as it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{epoch, sum_of, version};
use crate::command::{output, run};

/// The loader's own name for what has no file.
const VIRTUAL: &str = "linux-vdso";

/// Makes the image of what is under `root` in `folder`.
pub fn build(root: &Path, folder: &Path) -> Result<PathBuf> {
    let work = folder.join("oci");
    let (files, layout) = (work.join("files"), work.join("layout"));
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    fill(root, &files)?;

    let layer = work.join("layer.tar");
    archive(&files, &layer, false)?;
    let difference = sum_of(&layer)?;
    let packed = work.join("layer.tar.gz");
    archive(&files, &packed, true)?;
    let layer = blob(&packed, &blobs)?;

    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let created = created()?;
    let config = json!({
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/flowmeter"],
            "Cmd": ["doctor"],
            "Labels": {
                "org.opencontainers.image.title": "flowmeter",
                "org.opencontainers.image.version": version(),
                "org.opencontainers.image.licenses": "Apache-2.0 AND MIT",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{difference}")]},
        "history": [{"created": created, "created_by": "cargo xtask dist"}],
    });
    let config = text_blob(&config, &work, &blobs)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
    });
    let manifest = text_blob(&manifest, &work, &blobs)?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": version()});
    entry["platform"] = json!({"architecture": architecture, "os": "linux"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    for (name, content) in [("index.json", index), ("oci-layout", json!({"imageLayoutVersion": "1.0.0"}))] {
        fs::write(layout.join(name), content.to_string()).with_context(|| format!("cannot write {name}"))?;
    }
    let place = folder.join(format!("flowmeter-{}-oci-{architecture}.tar", version()));
    archive(&layout, &place, false)?;
    Ok(place)
}

/// Puts the agent and all that it loads under `files`.
fn fill(root: &Path, files: &Path) -> Result<()> {
    for part in ["usr/bin", "usr/lib/flowmeter", "usr/share/doc"] {
        let to = files.join(part);
        fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
        run(Command::new("cp").args(["--recursive", "--no-target-directory"]).arg(root.join(part)).arg(&to))?;
    }
    let mut libraries = BTreeSet::new();
    let loaded = fs::read_dir(root.join("usr/lib/flowmeter"))
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .context("cannot list the library's folder")?;
    for program in loaded.iter().map(fs::DirEntry::path).chain([root.join("usr/bin/flowmeter")]) {
        // What is no program asks for nothing.
        let Some(listed) = output(Command::new("ldd").arg(&program)) else { continue };
        libraries.extend(needed(&listed)?);
    }
    for library in libraries {
        let to = files.join(library.strip_prefix("/").unwrap_or(&library));
        let folder = to.parent().context("a library lies in a folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::copy(&library, &to).map(drop))
            .with_context(|| format!("cannot copy {}", library.display()))?;
    }
    Ok(())
}

/// Paths in what ldd prints: `name => path (address)`, or `path (address)`.
fn needed(listed: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in listed.lines().map(str::trim) {
        if line.contains("not found") {
            bail!("a library is missing: {line}");
        }
        let place = line.split_once("=> ").map_or(line, |(_, place)| place);
        let path = place.split(" (").next().unwrap_or_default();
        if path.starts_with('/') && !line.starts_with(VIRTUAL) {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

/// A folder as a tar archive that is the same each time.
fn archive(folder: &Path, place: &Path, packed: bool) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    command.args(["--mode=u+rw,go+rX,go-w"]).arg(format!("--mtime=@{}", epoch()));
    if packed {
        command.args(["--use-compress-program", "gzip --no-name"]);
    }
    run(command.arg("--file").arg(place).arg("--directory").arg(folder).arg("."))
}

/// A blob: its sum and its size.
struct Blob {
    sum: String,
    size: u64,
}

/// Copies a file among the blobs.
fn blob(file: &Path, blobs: &Path) -> Result<Blob> {
    let sum = sum_of(file)?;
    let size = fs::copy(file, blobs.join(&sum)).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(Blob { sum, size })
}

fn text_blob(content: &Value, work: &Path, blobs: &Path) -> Result<Blob> {
    let file = work.join("blob.json");
    fs::write(&file, content.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    blob(&file, blobs)
}

fn descriptor(media_type: &str, Blob { sum, size }: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{sum}"), "size": size})
}

/// When the image was made, by RFC 3339.
fn created() -> Result<String> {
    output(Command::new("date").args(["--utc", "--date", &format!("@{}", epoch()), "+%Y-%m-%dT%H:%M:%SZ"]))
        .context("date does not tell the time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_as_ldd_prints_them() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n";
        let expected = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(needed(listed).expect("paths"), expected);
        assert!(needed("\tlibstdc++.so.6 => not found\n").is_err());
    }
}
