#!/usr/bin/env python3
"""Fits FlowMeter's model on labelled captures and writes it as ONNX, with the contract that the agent checks.

    train.py --bin ../target/release/flowmeter --corpus DIR --unpacked DIR [--recordings DIR] --output ../models/NAME.onnx

Columns come from the binary itself, truth from the corpus's manifest.csv and labels.py. Flows are weighted so that every
(source, category, label) group counts, whatever its number of flows. Both thresholds are chosen on scores that a flow gets
from models which saw nothing of its source: on a random split any figure would be far too good.
"""

import argparse
import pathlib

import numpy
import pandas
from lightgbm import LGBMClassifier

import contract
import flows
from weighting import macro_weight, training_weight, weighted_quantile

# What a flow does not show of itself but of the hosts' operating system: options in TCP's header.
LEFT_OUT = ("header",)
# Largest macro share of benign flows called malicious, and of malicious flows called benign, on sources not seen.
FALSE_POSITIVES = 0.03
FALSE_CLEARANCES = 0.25
# Strongly regularised: what one source has for itself is not worth learning.
FOREST = {
    "n_estimators": 250, "learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 200, "subsample": 0.8,
    "subsample_freq": 1, "colsample_bytree": 0.3, "reg_lambda": 50.0, "random_state": 1, "deterministic": True,
    "force_row_wise": True, "verbose": -1,
}


def fit(table, inputs):
    """A forest of boosted trees."""
    return LGBMClassifier(**FOREST).fit(table[inputs].astype("float32"), table.label, sample_weight=training_weight(table))


def scores(model, table, inputs):
    """The probability of malicious for each flow."""
    return model.predict_proba(table[inputs].astype("float32"))[:, 1]


def unseen_scores(table, inputs):
    """A score for each flow by a model that saw nothing of the flow's source."""
    result = pandas.Series(index=table.index, dtype=float)
    for source in sorted(table.source.unique()):
        own = table.source == source
        if table.label[~own].nunique() == 2:
            result[own] = scores(fit(table[~own], inputs), table[own], inputs)
            print(f"  scored without having seen it: {source}, {own.sum()} flows", flush=True)
    return result


def thresholds(table, score):
    """(malicious, benign): the lowest and the highest score that keep the limits above, on scores of sources not seen."""
    benign, malicious = table[table.label == 0], table[table.label == 1]
    upper = weighted_quantile(score[benign.index], macro_weight(benign), 1.0 - FALSE_POSITIVES)
    lower = weighted_quantile(score[malicious.index], macro_weight(malicious), FALSE_CLEARANCES)
    # Rounded away from each other's side: towards fewer wrong verdicts.
    upper = min(numpy.ceil(upper * 1000) / 1000, 0.999)
    lower = max(numpy.floor(lower * 1000) / 1000, 0.001)
    return float(upper), float(min(lower, upper))


def report(table, score, upper, lower):
    """What the thresholds give for each group."""
    print(f"{'source':34} {'category':26} {'label':9} {'flows':>7} {'flagged':>8} {'cleared':>8}")
    for (source, category, label), rows in table.groupby(["source", "category", "label"]):
        own = score[rows.index]
        print(f"{source[:34]:34} {category[:26]:26} {'malicious' if label else 'benign':9} {len(rows):7} "
              f"{(own >= upper).mean():8.3f} {(own < lower).mean():8.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the flowmeter binary, which computes the features")
    parser.add_argument("--corpus", type=pathlib.Path, required=True, help="folder with manifest.csv and labels.py")
    parser.add_argument("--unpacked", type=pathlib.Path, required=True, help="folder with the unpacked split train/")
    parser.add_argument("--recordings", type=pathlib.Path, help="folder that tests/sample/record.py --scale wrote")
    parser.add_argument("--name", default="flowmeter-v1", help="name of the model, as it stands in the log")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the ONNX file to write")
    arguments = parser.parse_args()

    table = flows.corpus(arguments.bin, arguments.corpus, arguments.unpacked, "train")
    if arguments.recordings:
        table = pandas.concat([table, flows.recordings(arguments.bin, arguments.recordings)], ignore_index=True)
    inputs = [name for name in flows.features(arguments.bin) if not any(word in name for word in LEFT_OUT)]
    print(f"{len(table)} flows, {table.label.sum()} of them malicious, {len(inputs)} columns")

    unseen = unseen_scores(table, inputs)
    scored = unseen.notna()
    upper, lower = thresholds(table[scored], unseen[scored])
    report(table[scored], unseen[scored], upper, lower)
    model = fit(table, inputs)
    contract.export(
        model, arguments.output, name=arguments.name, feature_set="flowmeter/v1", table=table[inputs],
        benign=table.label == 0, weight=training_weight(table), threshold_malicious=upper, threshold_benign=lower)
    print(f"{arguments.output}: malicious from {upper}, benign below {lower}")


if __name__ == "__main__":
    main()
