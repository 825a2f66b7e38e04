"""Makes the library that `flowmeter adapt` learns from beside a network's own flows: labelled rows of features, and nothing else.

    python -m flowmeter_training.library --bin ../target/release/flowmeter --corpus DIR --unpacked DIR
               --recordings DIR [--splits train train2] --inputs ../models/flowmeter-v2.onnx --output ../models/library-v2.parquet

The rows are those that the model is fitted on: captures of the corpus, our own recordings, and mixtures of both, so that many
flows at once do not mean attack. There is no address, port, time or name in it: a column an input of the model, whether the
row is of an attack, what it counts, and a number for its network. val and val2 stay out, so that they can
judge what is learned from it.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence

import numpy
import onnx
import pandas
import pyarrow
import pyarrow.parquet

from . import flows, mixing
from .weighting import training_weight

# Most rows of a capture in a group, and of a group in mixtures.
MOST_OF_CAPTURE = 40
MOST_OF_MIXED = 60
MIXTURES = 160


def some(table: pandas.DataFrame, columns: list[str], most: int, seed: int) -> pandas.DataFrame:
    """At most `most` rows of each group by these columns, drawn at random."""
    draw = numpy.random.default_rng(seed).random(len(table))
    rank = table.assign(draw=draw).groupby(columns)["draw"].rank()
    return table[rank <= most].reset_index(drop=True)


def chosen(table: pandas.DataFrame, mixtures: pandas.DataFrame, seed: int) -> pandas.DataFrame:
    """The rows of the library, with their weight."""
    table = some(table, ["observed", "source", "category", "label"], MOST_OF_CAPTURE, seed)
    mixtures = some(mixtures, ["source", "category", "label"], MOST_OF_MIXED, seed)
    table = pandas.concat([table, mixtures], ignore_index=True)
    # Of our own recordings, which come from one laboratory, an activity takes a network's place.
    network = numpy.where(
        table.source == "recorded", table.category.str.removesuffix(", mixed"), table.source
    )
    return table.assign(weight=training_weight(table), network=pandas.factorize(network, sort=True)[0])


def lasting(inputs: Sequence[str]) -> list[str]:
    """The inputs without counts over seconds and a minute: there, a busy network looks like an attack."""
    return [name for name in inputs if not name.endswith(("_10s", "_1m"))]


def write(table: pandas.DataFrame, inputs: Sequence[str], path: pathlib.Path) -> None:
    """Writes the library; docs of the format are in flowmeter-userspace/src/adapt/library.rs."""
    columns = {name: table[name].to_numpy("float32") for name in inputs}
    columns["malicious"] = table.label.to_numpy("float32")
    columns["weight"] = table.weight.to_numpy("float32")
    columns["network"] = table.network.to_numpy("float32")
    rows = pyarrow.table(columns).replace_schema_metadata({"flowmeter.feature_set": flows.FEATURE_SET})
    pyarrow.parquet.write_table(rows, path, compression="zstd", compression_level=19)


def main() -> None:
    """Reads the command line and makes the library."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bin", type=pathlib.Path, required=True, help="the flowmeter binary, which computes the features"
    )
    parser.add_argument(
        "--corpus", type=pathlib.Path, required=True, help="folder with manifest.csv and labels.py"
    )
    parser.add_argument(
        "--unpacked", type=pathlib.Path, required=True, help="folder with the unpacked splits"
    )
    parser.add_argument("--splits", nargs="+", default=["train", "train2"])
    parser.add_argument(
        "--recordings",
        type=pathlib.Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders that tests/sample/record.py --scale wrote",
    )
    parser.add_argument("--inputs", type=pathlib.Path, required=True, help="the model whose inputs are taken")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    table = pandas.concat(
        [
            flows.corpus(arguments.bin, arguments.corpus, arguments.unpacked, split)
            for split in arguments.splits
        ]
        + [flows.recordings(arguments.bin, folder) for folder in arguments.recordings],
        ignore_index=True,
    )
    mixtures = mixing.mixed(arguments.bin, table, arguments.seed, MIXTURES)
    [inputs] = [
        json.loads(p.value) for p in onnx.load(arguments.inputs).metadata_props if p.key == "flowmeter.inputs"
    ]
    rows = chosen(table, mixtures, arguments.seed)
    write(rows, lasting(inputs), arguments.output)
    print(
        f"{arguments.output}: {len(rows)} rows, {int(rows.label.sum())} of attacks, {arguments.output.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
