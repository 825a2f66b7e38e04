"""Writes what is known about the flows of a corpus's split as a table for `flowmeter evaluate --truth`.

    python -m flowmeter_training.truth --bin target/release/flowmeter --corpus DIR --unpacked DIR --output truth.csv
    flowmeter pcap $(find UNPACKED/val -type f) | flowmeter evaluate - --truth truth.csv --html report.html

Each row names a capture and a flow's addresses, ports and protocol. Flows that the corpus leaves open are not in it.
"""

import argparse
import pathlib

from . import flows

# By what a row names flows; of these, `observed` is told relative to the unpacked split.
KEY = ["observed", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"]


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the flowmeter binary")
    parser.add_argument(
        "--corpus", type=pathlib.Path, required=True, help="folder with manifest.csv and labels.py"
    )
    parser.add_argument("--unpacked", type=pathlib.Path, required=True, help="folder with the unpacked split")
    parser.add_argument("--split", default="val")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the table to write")
    arguments = parser.parse_args()

    table = flows.corpus(arguments.bin, arguments.corpus, arguments.unpacked, arguments.split)
    root = str(arguments.unpacked / arguments.split) + "/"
    table["observed"] = table.observed.str.removeprefix(root)
    table[KEY + flows.TRUTH].drop_duplicates().to_csv(arguments.output, index=False)


if __name__ == "__main__":
    main()
