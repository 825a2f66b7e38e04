"""What `flowmeter calibrate` is worth: half of each benign source calibrates, the other half and the attacks are judged.

    python -m flowmeter_training.site --bin target/release/flowmeter --corpus DIR --unpacked DIR [--rate 0.01]

Each benign source of val and train is taken for a network of its own; those of val are judged by the built-in model, those
of train by one that is fitted on train without them. Attacks are those of val. Calibration and verdicts are the binary's
own. The first half of a source's flows by time calibrates, as it is and with 1 and 5 % of attack flows among it: one attack
at a time, within a tenth of the time. `same` is the share that is found of that very attack, before and after.
"""

import argparse
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy
import pandas

from . import candidates, contract, fitting, flows
from .weighting import thinned, training_weight

SHARES = (0.0, 0.01, 0.05)
# Least flows of a benign source that is taken for a network.
LEAST = 100
# What tells flows apart.
KEY = ["observed", "timestamp", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"]
# How often an attack's flows may be repeated to make up the share.
REPEATS = 20


def flowmeter(binary: pathlib.Path, *words: Any) -> None:
    """Runs it to its end."""
    subprocess.run([str(word) for word in (binary, "--quiet", *words)], check=True, stdout=subprocess.DEVNULL)


def fitted_without(
    source: str, table: pandas.DataFrame, val: pandas.DataFrame, inputs: Sequence[str], path: pathlib.Path
) -> list[Any]:
    """Writes a model that has seen nothing of a source.

    It differs from the built-in one in that its scores are not calibrated.
    """
    rest = table[table.source != source]
    model = candidates.trees(thinned(rest, 1), inputs, 1)
    upper, lower = fitting.thresholds(val, fitting.probability(candidates.log_odds(model, val, inputs)))
    contract.export(
        model,
        path,
        name=f"without-{source}",
        feature_set=flows.FEATURE_SET,
        table=rest[inputs],
        benign=rest.label == 0,
        weight=training_weight(rest),
        threshold_malicious=upper,
        threshold_benign=lower,
        ranges=fitting.ranges(candidates.values(rest, inputs).to_numpy()),
        calibration=(1.0, 0.0),
    )
    return ["--model", path]


class Network:
    """A benign source, and the attacks, as one run of flowmeter judges them."""

    def __init__(
        self,
        binary: pathlib.Path,
        model: Sequence[Any],
        site: pandas.DataFrame,
        attacks: pandas.DataFrame,
        folder: pathlib.Path,
    ) -> None:
        """The first half of `site` by time is what calibrates."""
        self.binary, self.model, self.folder = binary, model, folder
        self.captures = sorted({*site.observed, *attacks.observed})
        self.labels = pandas.concat([site, attacks])[[*flows.TRUTH, *KEY]].drop_duplicates(KEY)
        site = site.sort_values("timestamp", kind="stable")
        self.calibrating, later = site.iloc[: len(site) // 2], site.iloc[len(site) // 2 :]
        self.later = set(later[KEY].itertuples(index=False, name=None))

    def judged(self, calibration: Sequence[Any] = ()) -> tuple[pandas.Series, float]:
        """The share of each attack found, and of the later half's flows called malicious."""
        output = self.folder / "judged.parquet"
        flowmeter(
            self.binary,
            "pcap",
            *self.model,
            *calibration,
            "--format",
            "parquet",
            "--output",
            output,
            *self.captures,
        )
        table = pandas.read_parquet(output, columns=[*KEY, "verdict"]).merge(self.labels, on=KEY)
        table["found"] = table.verdict == "malicious"
        later = pandas.Series(
            [key in self.later for key in table[KEY].itertuples(index=False, name=None)], index=table.index
        )
        attacks = table[table.label == 1].groupby(["source", "category"]).found.mean()
        return attacks, table[(table.label == 0) & later].found.mean()

    def calibrated(
        self, attack: pandas.DataFrame | None, share: float, rate: float
    ) -> tuple[pandas.Series, float] | None:
        """As `judged`, by a calibration on the first half with some of an attack's flows; None if it has too few."""
        table = self.calibrating
        if attack is not None:
            number = round(share / (1 - share) * len(table))
            if not 0 < number <= len(attack) * REPEATS:
                return None
            place = len(table) // 3 + numpy.linspace(0, len(table) // 10, number).astype(int)
            attack = attack.iloc[numpy.arange(number) % len(attack)].copy()
            attack["timestamp"] = table.timestamp.iloc[place].to_numpy()
            table = pandas.concat([table, attack])
        source, output = self.folder / "site.parquet", self.folder / "site.json"
        table.to_parquet(source)
        flowmeter(self.binary, "calibrate", source, "--rate", rate, *self.model, "--output", output)
        return self.judged(["--calibration", output])


def main() -> None:
    """Prints a row for each network and share of attacks among what calibrates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the flowmeter binary")
    parser.add_argument(
        "--corpus", type=pathlib.Path, required=True, help="folder with manifest.csv and labels.py"
    )
    parser.add_argument(
        "--unpacked", type=pathlib.Path, required=True, help="folder with the unpacked splits train/ and val/"
    )
    parser.add_argument(
        "--rate", type=float, default=0.01, help="the budget: share of flows called malicious"
    )
    parser.add_argument(
        "--only-val", action="store_true", help="leave out the sources of train, and the fitting for them"
    )
    arguments = parser.parse_args()

    def load(split: str) -> pandas.DataFrame:
        return flows.corpus(arguments.bin, arguments.corpus, arguments.unpacked, split).reset_index(drop=True)

    val = load("val")
    tables = [val] if arguments.only_val else [val, load("train")]
    attacks = val[val.label == 1]
    print(
        f"{'network':34} {'attacks':>7} {'TPR':>6} {'after':>6} {'FPR':>7} {'after':>7} {'same':>6} {'after':>6}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for table in tables:
            for source, site in table[table.label == 0].groupby("source"):
                if len(site) < LEAST:
                    continue
                model = []
                if table is not val:
                    inputs = [
                        name
                        for name in flows.features(arguments.bin)
                        if not any(word in name for word in flows.LEFT_OUT)
                    ]
                    model = fitted_without(source, table, val, inputs, folder / "model.onnx")
                network = Network(arguments.bin, model, site, attacks, folder)
                found, false = network.judged()
                for share in SHARES:
                    tried = attacks.groupby(["source", "category"]) if share else [(None, None)]
                    results = [
                        (name, network.calibrated(attack, share, arguments.rate)) for name, attack in tried
                    ]
                    after = [(name, result) for name, result in results if result is not None]
                    if not after:
                        continue
                    row = [
                        found.mean(),
                        numpy.mean([result[0].mean() for _, result in after]),
                        false,
                        numpy.mean([result[1] for _, result in after]),
                        numpy.mean([found[name] if name else found.mean() for name, _ in after]),
                        numpy.mean([result[0][name] if name else result[0].mean() for name, result in after]),
                    ]
                    rows.append((share, *row))
                    print(line(source, share, row), flush=True)
    for share, means in pandas.DataFrame(rows).groupby(0).mean().iterrows():
        print(line("mean of networks", share, list(means)))


def line(name: str, share: float, row: Sequence[float]) -> str:
    """A row of what is printed."""
    tpr, tpr_after, fpr, fpr_after, same, same_after = row
    return f"{name[:34]:34} {share:7.0%} {tpr:6.3f} {tpr_after:6.3f} {fpr:7.4f} {fpr_after:7.4f} {same:6.3f} {same_after:6.3f}"


if __name__ == "__main__":
    main()
