//! The bill of materials: what is in the packages, as CycloneDX 1.5 (ECMA-424) in JSON.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::version;
use crate::notices::{self, Component};

/// The bill of the agent in a package with this library of ONNX Runtime, whose file name ends with its version.
pub fn bill(library: &Path, library_sum: &str) -> Result<String> {
    let mut components: Vec<Value> = notices::components()?.iter().map(component).collect();
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    let (_, library_version) = name.split_once(".so.").context("the library's name has no version")?;
    components.push(json!({
        "type": "library",
        "bom-ref": format!("pkg:pypi/onnxruntime@{library_version}"),
        "name": "onnxruntime",
        "version": library_version,
        "purl": format!("pkg:pypi/onnxruntime@{library_version}"),
        "licenses": [{"license": {"id": "MIT"}}],
        "hashes": [{"alg": "SHA-256", "content": library_sum}],
    }));
    let bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "flowmeter",
                "name": "flowmeter",
                "version": version(),
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": components,
    });
    Ok(format!("{bill:#}\n"))
}

fn component(component: &Component) -> Value {
    let Component { name, version, license } = component;
    let purl = format!("pkg:cargo/{name}@{version}");
    // Cargo's older manifests divide licences by a slash; some name a file instead.
    let license = match license {
        Some(license) => json!({"expression": license.replace('/', " OR ")}),
        None => json!({"license": {"name": "as in the package's own file"}}),
    };
    json!({
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": [license],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_names_each_crate_once_and_the_library() {
        let text = bill(Path::new("/x/libonnxruntime.so.1.2.3"), "abc").expect("a bill");
        let bill: Value = serde_json::from_str(&text).expect("JSON");
        let components = bill["components"].as_array().expect("components");
        let mut names: Vec<&str> = components.iter().filter_map(|c| c["bom-ref"].as_str()).collect();
        assert!(names.len() > 100, "{}", names.len());
        assert!(names.iter().any(|name| name.starts_with("pkg:cargo/aya@")), "{names:?}");
        assert!(names.contains(&"pkg:pypi/onnxruntime@1.2.3"), "{names:?}");
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "each once");
        assert!(components.iter().all(|c| c["licenses"][0].is_object()), "each with its licence");
    }
}
