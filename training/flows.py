"""Labelled flows: runs the flowmeter binary over captures and joins its columns with the truth about them.

No feature is defined here: columns are those that the binary writes, under the names it gives them.
"""

import csv
import importlib.util
import pathlib
import subprocess
import tempfile

import pandas

# Columns before the features: who and what, never given to a model.
IDENTITY = ["observed", "timestamp", "src_ip", "src_port", "dst_ip", "dst_port", "protocol", "vlan", "end_reason",
            "flow_packets", "flow_bytes", "verdict", "score", "model"]


# What the truth adds.
TRUTH = ["label", "source", "category"]


def columns_of(binary, captures):
    """A data frame with a row for each flow of `captures` (paths); column `observed` is the path."""
    with tempfile.TemporaryDirectory() as folder:
        table = pathlib.Path(folder) / "flows.csv"
        command = [binary, "--quiet", "pcap", "--no-model", "--format", "csv", "--output", table, *captures]
        subprocess.run([str(word) for word in command], check=True)
        return pandas.read_csv(table, low_memory=False, dtype={"src_ip": str, "dst_ip": str})


def read_labels(path):
    """The function flow_label of a corpus's labels.py."""
    spec = importlib.util.spec_from_file_location("labels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.flow_label


def corpus(binary, folder, unpacked, split):
    """The labelled flows of one split of the corpus whose manifest.csv and labels.py are in `folder`.

    Adds the columns label (0 benign, 1 malicious), source and category. Flows that the rules leave open are left out.
    """
    flow_label = read_labels(folder / "labels.py")
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = {str(unpacked / split / row["path"]): row for row in csv.DictReader(file) if row["split"] == split}
    rows = {path: row for path, row in rows.items() if pathlib.Path(path).exists()}
    if not rows:
        raise SystemExit(f"no capture of the split {split} under {unpacked / split}: unpack {split}.tar.zst there first")
    flows = columns_of(binary, sorted(rows))
    label = [
        flow_label(rows[path], int(protocol), source, int(source_port), target, int(target_port))
        for path, protocol, source, source_port, target, target_port in zip(
            flows.observed, flows.protocol, flows.src_ip, flows.src_port, flows.dst_ip, flows.dst_port)
    ]
    return labelled(
        flows, label,
        source=[rows[path]["path"].split("/")[0] for path in flows.observed],
        category=[rows[path]["category"] for path in flows.observed])


def recordings(binary, folder):
    """The labelled flows of captures that tests/sample/record.py made, by the manifest.csv beside them."""
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = {str(folder / row["file"]): row for row in csv.DictReader(file)}
    flows = columns_of(binary, sorted(rows))
    return labelled(
        flows, [int(rows[path]["label"] == "malicious") for path in flows.observed],
        source="recorded", category=[rows[path]["activity"] for path in flows.observed])


def labelled(flows, label, source, category):
    """`flows` with the columns label, source and category; without those whose label is None."""
    truth = pandas.DataFrame({"label": label, "source": source, "category": category}, index=flows.index)
    known = truth.label.notna()
    truth = truth[known].astype({"label": int})
    return pandas.concat([flows[known], truth], axis=1)
