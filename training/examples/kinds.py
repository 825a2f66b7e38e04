#!/usr/bin/env python3
"""Writes a small model of each kind for the tests: tests/models/KIND.onnx, and what the kind's own library says of some flows.

    python training/examples/kinds.py --bin target/release/flowmeter --output tests/models [KIND...]

They are fitted on the recorded sample to be examples of the contract, not to be good.
"""

import argparse
import json
import pathlib
import sys

import numpy

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from flowmeter_training import contract, flows  # noqa: E402

# Inputs from more than one feature set.
OWN = [
    "duration",
    "forward_packets",
    "backward_packets",
    "forward_payload_bytes",
    "backward_payload_bytes",
    "gap_mean",
    "size_mean",
    "backward_data_share",
]
CIC = [
    "Flow Duration",
    "Total Fwd Packet",
    "Total Bwd packets",
    "Flow Bytes/s",
    "SYN Flag Count",
    "Packet Length Mean",
]
# Flows whose scores are kept.
KEPT = 16


def scikit_learn(x, y):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    return model, model.predict_proba(x)[:, 1]


def scikit_learn_histogram(x, y):
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=8, max_leaf_nodes=6, random_state=1).fit(x, y)
    return model, model.predict_proba(x)[:, 1]


def lightgbm(x, y):
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(
        n_estimators=10, num_leaves=6, random_state=1, deterministic=True, force_row_wise=True, verbose=-1
    ).fit(x, y)
    return model, numpy.asarray(model.predict_proba(x))[:, 1]


def xgboost(x, y):
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=10, max_depth=3, random_state=1, n_jobs=1).fit(x, y)
    return model, model.predict_proba(x)[:, 1]


def pytorch(x, y):
    import torch

    torch.manual_seed(1)
    # Not from numpy: a torch that is older than it cannot take its arrays.
    inputs, truth = torch.tensor(x.tolist()), torch.tensor(y.tolist(), dtype=torch.float32)[:, None]

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layers = (
                torch.nn.Linear(x.shape[1], 8),
                torch.nn.ReLU(),
                torch.nn.Linear(8, 1),
                torch.nn.Sigmoid(),
            )
            self.layers = torch.nn.Sequential(*layers)

        def forward(self, features):
            # The scaling of heavy tails belongs to the model: the agent hands over plain values.
            return self.layers(torch.log1p(torch.relu(features)))

    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy(net(inputs), truth).backward()
        optimizer.step()
    return net, numpy.array(net(inputs)[:, 0].tolist())


KINDS = {
    "scikit-learn": (scikit_learn, "flowmeter/v1", OWN),
    "scikit-learn-histogram": (scikit_learn_histogram, "flowmeter/v1", OWN),
    "lightgbm": (lightgbm, "flowmeter/v1", OWN),
    "xgboost": (xgboost, "cic-fixed/v1", CIC),
    "pytorch": (pytorch, "flowmeter/v1", OWN),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bin", type=pathlib.Path, required=True, help="the flowmeter binary, which computes the features"
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for the models")
    parser.add_argument("kind", nargs="*", help=f"which; by default all: {', '.join(KINDS)}")
    arguments = parser.parse_args()
    for kind in arguments.kind or KINDS:
        fit, feature_set, inputs = KINDS[kind]
        table = flows.recordings(arguments.bin, FOLDER.parent.parent / "tests/sample", feature_set)
        x = table[inputs].astype("float32")
        model, scores = fit(x.to_numpy(), table.label.to_numpy())
        path = arguments.output / f"{kind}.onnx"
        contract.export(
            model,
            path,
            name=kind,
            feature_set=feature_set,
            table=x,
            benign=table.label == 0,
            threshold_malicious=0.9,
            threshold_benign=0.1,
        )
        kept = numpy.linspace(0, len(x) - 1, KEPT).astype(int)
        rows = [{"input": [float(value) for value in x.iloc[i]], "score": float(scores[i])} for i in kept]
        path.with_suffix(".json").write_text(
            "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8"
        )
        print(
            f"{path}: {path.stat().st_size} bytes, {len(x)} flows, "
            f"{((scores > 0.5) == table.label).mean():.3f} of them told right"
        )


if __name__ == "__main__":
    main()
