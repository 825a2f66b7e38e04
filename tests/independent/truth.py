"""Writes the truth about flows for `flowmeter evaluate`, from a corpus's manifest.csv and labels.py.

    truth.py CORPUS ROOT FLOWS TRUTH

ROOT is what the captures' paths in the log FLOWS begin with.
"""

import csv
import json
import pathlib
import sys

corpus, root, flows, truth = sys.argv[1:]
sys.path.insert(0, corpus)
from labels import flow_label  # type: ignore[import-not-found]  # noqa: E402

KEY = ["observed", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"]
with open(pathlib.Path(corpus) / "manifest.csv", newline="") as file:
    captures = {f"{root}/{row['path']}": row for row in csv.DictReader(file)}
with open(flows) as log, open(truth, "w", newline="") as out:
    writer = csv.writer(out)
    writer.writerow([*KEY, "label", "source", "category"])
    for line in log:
        flow = json.loads(line)
        if flow["event"] == "flow":
            row = captures[flow["observed"]]
            label = flow_label(
                row, flow["protocol"], flow["src_ip"], flow["src_port"], flow["dst_ip"], flow["dst_port"]
            )
            writer.writerow(
                [
                    *(flow[name] for name in KEY),
                    "" if label is None else label,
                    row["path"].split("/")[0],
                    row["category"],
                ]
            )
