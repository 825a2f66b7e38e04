"""Labelled flows: runs the flowmeter binary over captures and joins its columns with the truth about them.

No feature is defined here: columns are those that the binary writes, under the names it gives them.
"""

import csv
import importlib.util
import json
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence

import pandas

# The set whose features the built-in model takes.
FEATURE_SET = "flowmeter/v2"
# What a flow does not show of itself but of the hosts' operating system: options in TCP's header.
LEFT_OUT = ("header",)
# What the truth adds.
TRUTH = ["label", "source", "category"]


def features(binary: pathlib.Path, feature_set: str = FEATURE_SET) -> list[str]:
    """The names of a set's features, in order; what else is in a table says which flow it is."""
    command = [str(binary), "features", "--set", feature_set, "--format", "json"]
    columns = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [column["name"] for column in columns if column["role"] == "feature"]


def table_of(
    binary: pathlib.Path, captures: Iterable[str], feature_set: str = FEATURE_SET
) -> pandas.DataFrame:
    """A data frame with a row for each flow of `captures` (paths, two at least); column `observed` is the path."""
    with tempfile.TemporaryDirectory() as folder:
        table = pathlib.Path(folder) / "flows.parquet"
        command = [
            binary,
            "--quiet",
            "pcap",
            "--no-model",
            "--set",
            feature_set,
            "--format",
            "parquet",
            "--output",
            table,
            *captures,
        ]
        subprocess.run([str(word) for word in command], check=True)
        return pandas.read_parquet(table)


def read_labels(path: pathlib.Path) -> Callable[..., int | None]:
    """The function flow_label of a corpus's labels.py."""
    spec = importlib.util.spec_from_file_location("labels", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a Python module: expected the folder of manifest.csv and labels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    flow_label: Callable[..., int | None] = module.flow_label
    return flow_label


def corpus(
    binary: pathlib.Path, folder: pathlib.Path, unpacked: pathlib.Path, split: str
) -> pandas.DataFrame:
    """The labelled flows of one split of the corpus whose manifest.csv and labels.py are in `folder`.

    Adds the columns label (0 benign, 1 malicious), source and category. Flows that the rules leave open are left out.
    """
    flow_label = read_labels(folder / "labels.py")
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = {
            str(unpacked / split / row["path"]): row for row in csv.DictReader(file) if row["split"] == split
        }
    rows = {path: row for path, row in rows.items() if pathlib.Path(path).exists()}
    if not rows:
        raise SystemExit(
            f"no capture of the split {split} under {unpacked / split}: unpack {split}.tar.zst there first"
        )
    flows = table_of(binary, sorted(rows))
    label = [
        flow_label(rows[path], int(protocol), source, int(source_port), target, int(target_port))
        for path, protocol, source, source_port, target, target_port in zip(
            flows.observed,
            flows.protocol,
            flows.src_ip,
            flows.src_port,
            flows.dst_ip,
            flows.dst_port,
            strict=False,
        )
    ]
    return labelled(
        flows,
        label,
        source=[rows[path]["path"].split("/")[0] for path in flows.observed],
        category=[rows[path]["category"] for path in flows.observed],
    )


def recordings(
    binary: pathlib.Path, folder: pathlib.Path, feature_set: str = FEATURE_SET
) -> pandas.DataFrame:
    """The labelled flows of captures that tests/sample/record.py made, by the manifest.csv beside them."""
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = {str(folder / row["file"]): row for row in csv.DictReader(file)}
    flows = table_of(binary, sorted(rows), feature_set)
    return labelled(
        flows,
        [int(rows[path]["label"] == "malicious") for path in flows.observed],
        source="recorded",
        category=[rows[path]["activity"] for path in flows.observed],
    )


def labelled(
    flows: pandas.DataFrame,
    label: Sequence[int | None],
    source: str | Sequence[str | None],
    category: Sequence[str | None],
) -> pandas.DataFrame:
    """`flows` with the columns label, source and category; without those whose label is None."""
    truth = pandas.DataFrame({"label": label, "source": source, "category": category}, index=flows.index)
    known = truth.label.notna()
    truth = truth[known].astype({"label": int})
    return pandas.concat([flows[known], truth], axis=1)
