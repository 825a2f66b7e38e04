//! Promise: a model of any kind that keeps the contract scores as its own library does; one that breaks any part of it is
//! refused, with the name of what is wrong; and the agent says when the traffic is unlike that of training.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use flowmeter::features::FeatureSet;
use flowmeter::model::Model;
use harness::agent::{pcap_rows, run};
use harness::onnx::{element, identity, with_metadata};
use harness::replay::{Frame, read_capture, write_capture};
use harness::{example_model, runtime, sample_folder, samples};
use serde::Deserialize;
use serde_json::{Value, json};

/// The kinds of models that there are examples of.
const KINDS: [&str; 5] = ["scikit-learn", "scikit-learn-histogram", "lightgbm", "xgboost", "pytorch"];
/// Largest difference between a library's score and the agent's.
const TOLERANCE: f64 = 1e-6;

/// A row with the score that the library which fitted the model gave it.
#[derive(Deserialize)]
struct Expected {
    input: Vec<f32>,
    score: f64,
}

fn known(id: &str) -> Option<Vec<&'static str>> {
    FeatureSet::find(id).map(FeatureSet::names)
}

#[test]
fn every_kind_scores_as_its_own_library() -> Result<()> {
    let Some(runtime) = runtime() else { return Ok(()) };
    for kind in KINDS {
        let path = example_model(kind);
        let mut model = Model::load(&path, runtime, &known)?;
        assert_eq!(model.name(), kind);
        let text = std::fs::read_to_string(path.with_extension("json"))?;
        let expected: Vec<Expected> = serde_json::from_str(&text)?;
        assert!(expected.len() >= 16, "{kind}: {} rows", expected.len());
        let rows: Vec<f32> = expected.iter().flat_map(|row| row.input.iter().copied()).collect();
        let mut scores = Vec::new();
        model.score(&rows, &mut scores)?;
        for (score, Expected { score: library, .. }) in scores.iter().zip(&expected) {
            let difference = (f64::from(*score) - library).abs();
            assert!(difference <= TOLERANCE, "{kind}: {score} here, {library} there");
        }
        let (least, most) =
            scores.iter().fold((1.0_f32, 0.0_f32), |(least, most), s| (least.min(*s), most.max(*s)));
        assert!(most - least > 0.1, "{kind}: the scores say nothing: {least} to {most}");
    }
    Ok(())
}

#[test]
fn every_kind_is_checked_and_scores_flows_whatever_set_is_written() -> Result<()> {
    let capture = sample_folder().join("browse.pcap.zst");
    for kind in KINDS {
        let path = example_model(kind);
        let (passed, said) = check(&path)?;
        assert!(passed, "{kind}: {said}");
        let model = path.to_str().context("a path of text")?;
        let rows = pcap_rows(&[&capture], &["--model", model, "--set", "nfstream/v1"])?;
        assert_eq!(rows.len(), 14, "{kind}");
        for row in &rows {
            assert_eq!(row["model"], kind);
            assert!(
                ["benign", "malicious", "unknown"].contains(&row["verdict"].as_str().unwrap_or("")),
                "{row}"
            );
        }
    }
    Ok(())
}

/// What `flowmeter model check` says, and whether it was content.
fn check(model: &Path) -> Result<(bool, String)> {
    let output = run(&["model".as_ref(), "check".as_ref(), model.as_os_str()])?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// Fails unless a check names all of `parts` in a line that says `failed`, and a reading is refused with the first of them.
fn refused(folder: &Path, what: &str, model: &[u8], parts: &[&str]) -> Result<()> {
    let path = folder.join("broken.onnx");
    std::fs::write(&path, model)?;
    let (passed, said) = check(&path)?;
    ensure!(!passed, "{what}: it was not refused:\n{said}");
    let found = said.lines().any(|line| {
        (line.starts_with("failed") || line.contains("ERROR")) && parts.iter().all(|part| line.contains(part))
    });
    ensure!(found, "{what}: no line that says `failed` has {parts:?}:\n{said}");
    let capture = sample_folder().join("ntp-clocks.pcap.zst");
    let output = run(&["pcap".as_ref(), "--model".as_ref(), path.as_os_str(), capture.as_os_str()])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && output.stdout.is_empty(), "{what}: flows were scored:\n{said}");
    ensure!(said.contains("broken.onnx") && !said.contains("panicked"), "{what}: {said}");
    Ok(())
}

/// What is broken, the metadata that does it, and words that the refusal has.
type Broken<'a> = (&'a str, &'a [(&'a str, Option<String>)], &'a [&'a str]);

#[test]
fn every_part_of_the_contract_is_checked() -> Result<()> {
    let Some(runtime) = runtime() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let whole = std::fs::read(example_model("lightgbm"))?;
    let model = Model::load(&example_model("lightgbm"), runtime, &known)?;
    let set = model.feature_set().to_owned();
    let names = known(&set).context("a known set")?;
    let inputs: Vec<&str> = model.inputs().iter().map(|&column| names[column]).collect();
    let last = *inputs.last().context("an input")?;
    let count = inputs.len();
    let but_one = |with: &str| {
        let mut others: Vec<&str> = inputs[..count - 1].to_vec();
        others.push(with);
        json!(others).to_string()
    };
    let same = |value: Value, last: Value| {
        let mut values = vec![value; count - 1];
        values.push(last);
        json!(values).to_string()
    };
    let zeros = vec![0.0; count];
    let bins = |edges: &[f64], shares: &[f64]| json!({"edges": edges, "shares": shares});
    let good = bins(&[1.0], &[0.5, 0.5]);

    let rows: &[Broken<'_>] = &[
        ("no version", &[("contract", None)], &["flowmeter.contract is missing"]),
        ("another version", &[("contract", Some("2".into()))], &["flowmeter.contract is 2"]),
        ("no name", &[("name", None)], &["flowmeter.name is missing"]),
        ("no set", &[("feature_set", None)], &["flowmeter.feature_set is missing"]),
        ("an unknown set", &[("feature_set", Some("nobody/v9".into()))], &["nobody/v9"]),
        ("no inputs", &[("inputs", None)], &["flowmeter.inputs is missing"]),
        (
            "inputs that are no list",
            &[("inputs", Some("duration".into()))],
            &["flowmeter.inputs cannot be read"],
        ),
        ("an empty list of inputs", &[("inputs", Some("[]".into()))], &["flowmeter.inputs is empty"]),
        (
            "an input that the set has not",
            &[("inputs", Some(but_one("no_such_thing")))],
            &["\"no_such_thing\""],
        ),
        ("an input twice", &[("inputs", Some(but_one(inputs[0])))], &[inputs[0], "twice"]),
        (
            "fewer inputs than the graph takes",
            &[
                ("inputs", Some(json!(inputs[1..]).to_string())),
                ("ranges", Some(json!(vec![[0, 1]; count - 1]).to_string())),
                ("golden", Some(json!({"input": vec![0; count - 1], "score": 0.5}).to_string())),
                ("medians", None),
                ("normal", None),
                ("distribution", None),
            ],
            &["input", "columns"],
        ),
        ("no classes", &[("classes", None)], &["flowmeter.classes is missing"]),
        (
            "classes the wrong way round",
            &[("classes", Some(r#"["malicious","benign"]"#.into()))],
            &["flowmeter.classes is [\"malicious\", \"benign\"]"],
        ),
        ("no threshold", &[("threshold_malicious", None)], &["flowmeter.threshold_malicious is missing"]),
        ("a word for a threshold", &[("threshold_benign", Some("low".into()))], &["threshold_benign", "low"]),
        (
            "a threshold above 1",
            &[("threshold_malicious", Some("1.5".into()))],
            &["threshold_malicious is 1.5"],
        ),
        (
            "thresholds that cross",
            &[("threshold_malicious", Some("0.2".into())), ("threshold_benign", Some("0.3".into()))],
            &["0.3", "above", "0.2"],
        ),
        ("no ranges", &[("ranges", None)], &["flowmeter.ranges is missing"]),
        (
            "a range too few",
            &[("ranges", Some(json!(vec![[0, 1]; count - 1]).to_string()))],
            &["flowmeter.ranges has"],
        ),
        (
            "a range that ends before it begins",
            &[("ranges", Some(same(json!([0, 1]), json!([1, 0]))))],
            &["flowmeter.ranges", last, "[1, 0]"],
        ),
        ("a median too few", &[("medians", Some("[1]".into()))], &["flowmeter.medians has 1 value:"]),
        (
            "a normal range the wrong way round",
            &[("normal", Some(same(json!([0, 1]), json!([3, 2]))))],
            &["flowmeter.normal", last, "[3, 2]"],
        ),
        ("a distribution too few", &[("distribution", Some("[]".into()))], &["flowmeter.distribution has 0"]),
        (
            "edges that fall",
            &[("distribution", Some(same(good.clone(), bins(&[2.0, 1.0], &[0.2, 0.3, 0.5]))))],
            &["flowmeter.distribution", last, "do not rise"],
        ),
        (
            "as many shares as edges",
            &[("distribution", Some(same(good.clone(), bins(&[1.0], &[1.0]))))],
            &["flowmeter.distribution", last, "shares"],
        ),
        (
            "shares of more than all",
            &[("distribution", Some(same(good.clone(), bins(&[1.0], &[0.9, 0.9]))))],
            &["flowmeter.distribution", last, "1.8"],
        ),
        ("no golden vector", &[("golden", None)], &["flowmeter.golden is missing"]),
        (
            "a golden vector of other length",
            &[("golden", Some(json!({"input": [1], "score": 0.5}).to_string()))],
            &["golden", "1 value:"],
        ),
        (
            "a golden score that is none",
            &[("golden", Some(json!({"input": zeros, "score": 2}).to_string()))],
            &["flowmeter.golden's score is 2"],
        ),
        (
            "a golden score that it does not give",
            &[("golden", Some(json!({"input": zeros, "score": 0.123_456}).to_string()))],
            &["the golden vector scores", "0.123456"],
        ),
    ];
    for (what, changes, parts) in rows {
        let changes: Vec<(&str, Option<&str>)> =
            changes.iter().map(|(key, value)| (*key, value.as_deref())).collect();
        refused(folder.path(), what, &with_metadata(&whole, &changes)?, parts)?;
    }
    // Every part that may be left out, left out; and a part changed for the same, so that the changing is no failure itself.
    let threshold = model.thresholds().malicious.to_string();
    let lean = [
        ("medians", None),
        ("normal", None),
        ("distribution", None),
        ("threshold_malicious", Some(&threshold[..])),
    ];
    let path = folder.path().join("lean.onnx");
    std::fs::write(&path, with_metadata(&whole, &lean)?)?;
    let (passed, said) = check(&path)?;
    assert!(passed && said.matches("absent").count() == 3, "{said}");
    Ok(())
}

#[test]
fn every_part_of_the_graph_is_checked() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let whole = std::fs::read(example_model("pytorch"))?;
    refused(folder.path(), "half a file", &whole[..whole.len() / 2], &["file"])?;
    refused(folder.path(), "an empty file", b"", &["the file is empty"])?;
    refused(folder.path(), "a text", b"this is no model", &["not an ONNX model"])?;

    let set = FeatureSet::find("flowmeter/v1").context("the own set")?;
    let inputs = &set.names()[..2];
    let contract = |golden: [f64; 2]| {
        [
            ("contract", json!(1).to_string()),
            ("name", "identity".to_owned()),
            ("feature_set", set.id.to_owned()),
            ("inputs", json!(inputs).to_string()),
            ("classes", json!(["benign", "malicious"]).to_string()),
            ("threshold_malicious", "0.9".to_owned()),
            ("threshold_benign", "0.1".to_owned()),
            ("ranges", json!([[0, 1], [0, 1]]).to_string()),
            ("golden", json!({"input": golden, "score": golden[1].min(1.0)}).to_string()),
        ]
    };
    let model = |graph: Vec<u8>, golden| {
        let contract = contract(golden);
        let entries: Vec<_> = contract.iter().map(|(key, value)| (*key, Some(value.as_str()))).collect();
        with_metadata(&graph, &entries)
    };
    let path = folder.path().join("identity.onnx");
    std::fs::write(&path, model(identity(element::FLOAT, &[0, 2], 1), [0.7, 0.3])?)?;
    let (passed, said) = check(&path)?;
    assert!(passed, "the graph that the others are made of is right: {said}");

    for (what, graph, golden, parts) in [
        ("an input of integers", identity(element::INT64, &[0, 2], 1), [0.7, 0.3], &["float32"][..]),
        ("a column too many", identity(element::FLOAT, &[0, 3], 1), [0.7, 0.3], &["2 columns"]),
        ("an input that is no table", identity(element::FLOAT, &[0], 1), [0.7, 0.3], &["shape"]),
        (
            "two outputs",
            identity(element::FLOAT, &[0, 2], 2),
            [0.7, 0.3],
            &["2 float32 outputs", "zipmap=False"],
        ),
        ("no output of floats", identity(element::INT64, &[0, 2], 1), [0.7, 0.3], &["0 float32 outputs"]),
        (
            "what is no probability",
            identity(element::FLOAT, &[0, 2], 1),
            [0.0, 7.0],
            &["gave 7", "no probability"],
        ),
    ] {
        refused(folder.path(), what, &model(graph, golden)?, parts)?;
    }
    Ok(())
}

/// What the agent says of how the model fits captures.
fn said_of(captures: &[PathBuf], model: &Path) -> Result<String> {
    let mut words: Vec<&std::ffi::OsStr> =
        ["-v", "pcap", "--output", "/dev/null", "--model"].map(AsRef::as_ref).into();
    words.push(model.as_os_str());
    words.extend(captures.iter().map(|path| path.as_os_str()));
    let output = run(&words)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("the traffic")).collect();
    ensure!(lines.len() <= 1, "it is said once:\n{said}");
    Ok(lines.concat())
}

#[test]
fn traffic_unlike_that_of_training_is_told() -> Result<()> {
    let (folder, captures) = (tempfile::tempdir()?, samples()?);
    let model = example_model("lightgbm");
    // What it was fitted on.
    let said = said_of(&captures, &model)?;
    assert!(said.contains("fits the traffic"), "{said}");
    // The same at a twentieth of its pace: times are others, sizes and counts are not.
    let slow = |path: &PathBuf| -> Result<PathBuf> {
        let frames = read_capture(path)?;
        let start = frames.first().map_or(0, |frame| frame.timestamp_ns);
        let later = |frame: Frame| Frame { timestamp_ns: start + (frame.timestamp_ns - start) * 20, ..frame };
        let changed = folder.path().join(path.file_name().context("a name")?).with_extension("");
        write_capture(&changed, &frames.into_iter().map(later).collect::<Vec<_>>())?;
        Ok(changed)
    };
    let slow: Vec<PathBuf> = captures.iter().map(slow).collect::<Result<_>>()?;
    let said = said_of(&slow, &model)?;
    assert!(said.contains("WARN") && said.contains("does not look like"), "{said}");
    assert!(said.contains("duration") || said.contains("gap_mean"), "{said}");
    // Nothing but one kind of flow, of which each is known.
    let flood: Vec<PathBuf> =
        captures.iter().filter(|path| path.to_string_lossy().contains("flood-syn")).cloned().collect();
    let flood: Vec<PathBuf> = std::iter::repeat_n(flood, 12).flatten().collect();
    let said = said_of(&flood, &model)?;
    assert!(said.contains("does not look like") && said.contains(" 0.0 % of"), "{said}");
    // Too little to tell.
    assert_eq!(said_of(&captures[..2], &model)?, "");
    Ok(())
}
