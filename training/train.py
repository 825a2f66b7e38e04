#!/usr/bin/env python3
"""Fits FlowMeter's model on labelled captures and writes it as ONNX, with the contract that the agent checks, and its figures.

    train.py --bin ../target/release/flowmeter --corpus DIR --unpacked DIR --recordings DIR --output ../models/NAME.onnx

Columns come from the binary itself, truth from the corpus's manifest.csv and labels.py and from the recordings' own
manifest. Scores are calibrated on those that a flow gets from models which saw nothing of its source: on a random split any
figure would be far too good. Thresholds are chosen on the corpus's split val, whose sources no model has seen, or without a
corpus on the same scores as the calibration. With --card, kinds of models are compared, and parts of data and columns left
out one by one.
"""

import argparse
import pathlib

import numpy
import pandas
from sklearn.linear_model import LogisticRegression

import candidates
import card
import contract
import flows
import mixing
from measures import summary
from weighting import macro_weight, thinned, training_weight, weighted_quantile

# What a flow does not show of itself but of the hosts' operating system: options in TCP's header.
LEFT_OUT = ("header",)
# Largest macro share of benign flows called malicious, and of malicious flows called benign, on sources not seen. Below
# what is promised: sources differ.
FALSE_POSITIVES = 0.012
FALSE_CLEARANCES = 0.10
# Rounds of our recordings are scored by models of the others, in this many parts.
RECORDED_FOLDS = 5
# Times the largest value seen in training up to which an input is no stranger: floods have no largest size.
RANGE_SLACK = 10.0


def fold(table):
    """What is left out together: a source; of our own recordings a part of the rounds, of their mixtures all."""
    number = table.observed.str.extract(r"/(\d+)/[^/]*$")[0].astype(float)
    # Recordings without rounds: a capture is a round.
    number = number.fillna(pandas.Series(pandas.factorize(table.observed)[0], index=table.index)).astype(int)
    return numpy.where(table.source == "recorded", "recorded, part " + (number % RECORDED_FOLDS).astype(str), table.source)


def unseen_scores(table, mixtures, inputs, seed):
    """Log-odds of each flow by a model that saw nothing of the flow's fold, nor flows of its source in mixtures."""
    result = pandas.Series(index=table.index, dtype=float)
    folds = fold(table)
    for name in sorted(set(folds)):
        own = folds == name
        others = mixtures[mixtures.source != table.source[own].iloc[0]]
        model = candidates.trees(thinned(pandas.concat([table[~own], others]), seed), inputs, seed)
        result[own] = candidates.log_odds(model, table[own], inputs)
        print(f"  scored without having seen it: {name}, {own.sum()} flows", flush=True)
    return result


def calibration(table, score):
    """(factor, shift) that turn log-odds into those of a probability, at even odds (Platt, 1999)."""
    fitted = LogisticRegression(C=1e6).fit(score.to_frame(), table.label, sample_weight=macro_weight(table) * len(table))
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def probability(log_odds):
    """The probability with these log-odds."""
    return 1.0 / (1.0 + numpy.exp(-log_odds))


def thresholds(table, score):
    """(malicious, benign): the lowest and the highest score that keep the limits above, on scores of sources not seen."""
    benign, malicious = table[table.label == 0], table[table.label == 1]
    upper = weighted_quantile(score[benign.index], macro_weight(benign), 1.0 - FALSE_POSITIVES)
    lower = weighted_quantile(score[malicious.index], macro_weight(malicious), FALSE_CLEARANCES)
    # Rounded away from each other's side: towards fewer wrong verdicts.
    upper = min(numpy.ceil(upper * 1000) / 1000, 0.999)
    lower = max(numpy.floor(lower * 1000) / 1000, 0.001)
    return float(upper), float(min(lower, upper))


def ranges(values):
    """[least, greatest] of each input that is no stranger."""
    low, high = values.min(axis=0), values.max(axis=0)
    return [[float(l), float(min(h * RANGE_SLACK, numpy.finfo("float32").max))] for l, h in zip(low, high)]


def strangers(table, inputs, limits):
    """True for flows with an input outside of its range."""
    values = candidates.values(table, inputs).to_numpy()
    low, high = numpy.array(limits, dtype="float32").T
    return ((values < low) | (values > high)).any(axis=1)


class Trained:
    """The model with its calibration and thresholds."""

    def __init__(self, table, mixtures, val, inputs, seed):
        unseen = unseen_scores(table, mixtures, inputs, seed)
        self.inputs = inputs
        self.factor, self.shift = calibration(table, unseen)
        self.unseen = probability(self.factor * unseen + self.shift)
        self.limits = ranges(candidates.values(table, inputs).to_numpy())
        self.model = candidates.trees(thinned(pandas.concat([table, mixtures]), seed), inputs, seed)
        self.upper, self.lower = thresholds(table, self.unseen) if val is None else thresholds(val, self.scores(val))

    def scores(self, table):
        """The probability of malicious for each flow."""
        return probability(self.factor * candidates.log_odds(self.model, table, self.inputs) + self.shift)

    def summary(self, table):
        """Figures on flows of other sources."""
        return summary(table, self.scores(table), self.upper, self.lower, strangers(table, self.inputs, self.limits))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the flowmeter binary, which computes the features")
    parser.add_argument("--corpus", type=pathlib.Path, help="folder with manifest.csv and labels.py")
    parser.add_argument("--unpacked", type=pathlib.Path, help="folder with the unpacked splits train/ and val/")
    parser.add_argument("--recordings", type=pathlib.Path, nargs="+", default=[], metavar="DIR",
                        help="folders that tests/sample/record.py --scale wrote")
    parser.add_argument("--name", default="flowmeter-v2", help="name of the model, as it stands in the log")
    parser.add_argument("--seed", type=int, default=1, help="of the dice; the same data and seed give the same model")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the ONNX file to write")
    parser.add_argument("--card", type=pathlib.Path, help="a Markdown file for all figures, comparisons and ablations")
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
    inputs = [name for name in flows.features(arguments.bin) if not any(word in name for word in LEFT_OUT)]
    mixtures = mixing.mixed(arguments.bin, table, arguments.seed)
    print(f"{len(mixtures)} flows of mixtures", flush=True)
    count = len(inputs)
    inputs = candidates.most_useful(thinned(pandas.concat([table, mixtures]), arguments.seed), inputs, arguments.seed)
    print(f"{len(table)} flows, {table.label.sum()} of them malicious, {len(inputs)} of {count} columns", flush=True)

    trained = Trained(table, mixtures, val, inputs, arguments.seed)
    contract.export(
        trained.model, arguments.output, name=arguments.name, feature_set=flows.FEATURE_SET, table=table[inputs],
        benign=table.label == 0, weight=training_weight(table), threshold_malicious=trained.upper,
        threshold_benign=trained.lower, ranges=trained.limits, calibration=(trained.factor, trained.shift))
    print(f"{arguments.output}: malicious from {trained.upper}, benign below {trained.lower}", flush=True)
    if val is not None:
        print({name: round(value, 3) for name, value in trained.summary(val).items()}, flush=True)
    if arguments.card:
        card.write(arguments.card, trained, table, mixtures, val, arguments.seed)


if __name__ == "__main__":
    main()
