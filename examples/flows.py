"""Reads flows that FlowMeter wrote as Parquet, and shows by which features the malicious ones stand out.

    flowmeter pcap --format parquet --output flows.parquet *.pcap
    python3 examples/flows.py flows.parquet

Needs pyarrow. Which columns are features is asked of the binary (`--bin`), so that none is listed here.
"""

import argparse
import json
import statistics
import subprocess

from pyarrow import parquet


def main() -> None:
    """Prints flows and bytes of each verdict, then the features whose medians differ most."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("flows", help="a Parquet file of `flowmeter pcap` or `flowmeter live`")
    parser.add_argument("--bin", default="flowmeter", help="the flowmeter binary")
    parser.add_argument(
        "--set", default="flowmeter/v1", help="the feature set that the file was written with"
    )
    arguments = parser.parse_args()

    table = parquet.read_table(arguments.flows)
    for row in table.group_by("verdict").aggregate([("bytes", "count"), ("bytes", "sum")]).to_pylist():
        print(f"{row['verdict']}: {row['bytes_count']} flows, {row['bytes_sum']} bytes")

    command = [arguments.bin, "features", "--set", arguments.set, "--format", "json"]
    columns = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    verdicts = table["verdict"].to_pylist()
    differences = []
    for name in (column["name"] for column in columns if column["role"] == "feature"):
        values = list(zip(verdicts, table[name].to_pylist(), strict=True))
        malicious = [value for verdict, value in values if verdict == "malicious"]
        others = [value for verdict, value in values if verdict != "malicious"]
        spread = statistics.pstdev(value for _, value in values)
        if malicious and others and spread:
            difference = (statistics.median(malicious) - statistics.median(others)) / spread
            differences.append((abs(difference), name, difference))
    for _, name, difference in sorted(differences, reverse=True)[:5]:
        print(f"{name}: the median of malicious flows is {difference:+.2f} standard deviations away")


if __name__ == "__main__":
    main()
