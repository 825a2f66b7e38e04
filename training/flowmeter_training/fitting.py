"""The fit: scores of flows that the model has not seen, calibration by them, thresholds, ranges."""

from collections.abc import Sequence
from typing import TypeVar

import numpy
import pandas
from sklearn.linear_model import LogisticRegression

from . import candidates
from .measures import summary
from .weighting import Array, macro_weight, thinned, weighted_quantile

# Largest macro share of benign flows called malicious, and of malicious flows called benign, on sources not seen. Below
# what is promised: sources differ.
FALSE_POSITIVES = 0.012
FALSE_CLEARANCES = 0.10
# Rounds of our recordings are scored by models of the others, in this many parts.
RECORDED_FOLDS = 5
# An input may exceed the largest value in training by this factor, since floods have no largest size.
RANGE_SLACK = 10.0

T = TypeVar("T", Array, pandas.Series)
# [least, greatest] of each input.
Limits = list[list[float]]


def fold(table: pandas.DataFrame) -> Array:
    """What is left out together: a source; of our own recordings a part of the rounds, of their mixtures all."""
    number = table.observed.str.extract(r"/(\d+)/[^/]*$")[0].astype(float)
    # Recordings without rounds: a capture is a round.
    number = number.fillna(pandas.Series(pandas.factorize(table.observed)[0], index=table.index)).astype(int)
    part = "recorded, part " + (number % RECORDED_FOLDS).astype(str)
    return numpy.where(table.source == "recorded", part, table.source)


def unseen_scores(
    table: pandas.DataFrame, mixtures: pandas.DataFrame, inputs: Sequence[str], seed: int
) -> pandas.Series:
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


def calibration(table: pandas.DataFrame, score: pandas.Series) -> tuple[float, float]:
    """(factor, shift) that turn log-odds into those of a probability, at even odds (Platt, 1999)."""
    weight = macro_weight(table) * len(table)
    fitted = LogisticRegression(C=1e6).fit(score.to_frame(), table.label, sample_weight=weight)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def probability(log_odds: T) -> T:
    """The probability with these log-odds."""
    return 1.0 / (1.0 + numpy.exp(-log_odds))


def thresholds(table: pandas.DataFrame, score: pandas.Series | Array) -> tuple[float, float]:
    """(malicious, benign): the lowest and the highest score that keep the limits above, on scores of sources not seen."""
    benign, malicious = table[table.label == 0], table[table.label == 1]
    upper = weighted_quantile(score[benign.index], macro_weight(benign), 1.0 - FALSE_POSITIVES)
    lower = weighted_quantile(score[malicious.index], macro_weight(malicious), FALSE_CLEARANCES)
    # Rounded away from each other's side: towards fewer wrong verdicts.
    upper = min(numpy.ceil(upper * 1000) / 1000, 0.999)
    lower = max(numpy.floor(lower * 1000) / 1000, 0.001)
    return float(upper), float(min(lower, upper))


def ranges(values: Array) -> Limits:
    """[least, greatest] accepted value of each input."""
    most = float(numpy.finfo("float32").max)
    lows, highs = values.min(axis=0), values.max(axis=0)
    return [[float(low), float(min(high * RANGE_SLACK, most))] for low, high in zip(lows, highs, strict=True)]


def strangers(table: pandas.DataFrame, inputs: Sequence[str], limits: Limits) -> Array:
    """True for flows with an input outside of its range."""
    values = candidates.values(table, inputs).to_numpy()
    low, high = numpy.array(limits, dtype="float32").T
    return ((values < low) | (values > high)).any(axis=1)


class Trained:
    """The model with its calibration and thresholds."""

    def __init__(
        self,
        table: pandas.DataFrame,
        mixtures: pandas.DataFrame,
        val: pandas.DataFrame | None,
        inputs: Sequence[str],
        seed: int,
    ) -> None:
        """Fits on `table` and `mixtures`; thresholds come from `val`, else from scores of sources left out."""
        unseen = unseen_scores(table, mixtures, inputs, seed)
        self.inputs = inputs
        self.factor, self.shift = calibration(table, unseen)
        self.unseen = probability(self.factor * unseen + self.shift)
        self.limits = ranges(candidates.values(table, inputs).to_numpy())
        self.model = candidates.trees(thinned(pandas.concat([table, mixtures]), seed), inputs, seed)
        chosen = thresholds(table, self.unseen) if val is None else thresholds(val, self.scores(val))
        self.upper, self.lower = chosen

    def scores(self, table: pandas.DataFrame) -> Array:
        """The probability of malicious for each flow."""
        return probability(self.factor * candidates.log_odds(self.model, table, self.inputs) + self.shift)

    def summary(self, table: pandas.DataFrame) -> dict[str, float]:
        """Figures on flows of other sources."""
        foreign = strangers(table, self.inputs, self.limits)
        return summary(table, self.scores(table), self.upper, self.lower, foreign)
