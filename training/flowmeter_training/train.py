r"""Fits FlowMeter's model on labelled captures and writes it as ONNX, with the contract that the agent checks, and its figures.

    python -m flowmeter_training.train --bin target/release/flowmeter --corpus DIR --unpacked DIR --recordings DIR \\
        --output models/NAME.onnx

Columns come from the binary itself, truth from the corpus's manifest.csv and labels.py and from the recordings' own
manifest. Scores are calibrated on those that a flow gets from models which saw nothing of its source: on a random split any
figure would be far too good. Thresholds are chosen on the corpus's split val, whose sources no model has seen, or without a
corpus on the same scores as the calibration. With --card, kinds of models are compared, and parts of data and columns left
out one by one.
"""

import argparse
import pathlib

import pandas

from . import candidates, card, contract, flows, mixing
from .fitting import Trained
from .weighting import thinned, training_weight


def main() -> None:
    """Reads the command line, fits, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bin", type=pathlib.Path, required=True, help="the flowmeter binary, which computes the features"
    )
    parser.add_argument("--corpus", type=pathlib.Path, help="folder with manifest.csv and labels.py")
    parser.add_argument(
        "--unpacked", type=pathlib.Path, help="folder with the unpacked splits train/ and val/"
    )
    parser.add_argument(
        "--recordings",
        type=pathlib.Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders that tests/sample/record.py --scale wrote",
    )
    parser.add_argument("--name", default="flowmeter-v2", help="name of the model, as it stands in the log")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the dice; the same data and seed give the same model"
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the ONNX file to write")
    parser.add_argument(
        "--card", type=pathlib.Path, help="a Markdown file for all figures, comparisons and ablations"
    )
    arguments = parser.parse_args()
    if not arguments.recordings and not arguments.corpus:
        parser.error("there is nothing to learn from: give --corpus and --unpacked, or --recordings, or both")
    if bool(arguments.corpus) != bool(arguments.unpacked):
        parser.error("--corpus and --unpacked belong together")

    parts = [flows.recordings(arguments.bin, folder) for folder in arguments.recordings]
    val = None
    if arguments.corpus:
        parts.insert(0, flows.corpus(arguments.bin, arguments.corpus, arguments.unpacked, "train"))
        val = flows.corpus(arguments.bin, arguments.corpus, arguments.unpacked, "val").reset_index(drop=True)
    table = pandas.concat(parts, ignore_index=True)
    if table.label.nunique() < 2:
        parser.error("the captures hold flows of one class only")
    inputs = [
        name for name in flows.features(arguments.bin) if not any(word in name for word in flows.LEFT_OUT)
    ]
    mixtures = mixing.mixed(arguments.bin, table, arguments.seed)
    print(f"{len(mixtures)} flows of mixtures", flush=True)
    count = len(inputs)
    inputs = candidates.most_useful(
        thinned(pandas.concat([table, mixtures]), arguments.seed), inputs, arguments.seed
    )
    print(
        f"{len(table)} flows, {table.label.sum()} of them malicious, {len(inputs)} of {count} columns",
        flush=True,
    )

    trained = Trained(table, mixtures, val, inputs, arguments.seed)
    contract.export(
        trained.model,
        arguments.output,
        name=arguments.name,
        feature_set=flows.FEATURE_SET,
        table=table[inputs],
        benign=table.label == 0,
        weight=training_weight(table),
        threshold_malicious=trained.upper,
        threshold_benign=trained.lower,
        ranges=trained.limits,
        calibration=(trained.factor, trained.shift),
    )
    print(f"{arguments.output}: malicious from {trained.upper}, benign below {trained.lower}", flush=True)
    if val is not None:
        print({name: round(value, 3) for name, value in trained.summary(val).items()}, flush=True)
    if arguments.card:
        card.write(arguments.card, trained, table, mixtures, val, arguments.seed)


if __name__ == "__main__":
    main()
