"""Weights of flows: groups of flows, not floods of one tool, decide what is learned and measured."""

from typing import Any

import numpy
import pandas
from numpy.typing import NDArray

Array = NDArray[Any]

# Of a capture's n flows in a group, n to this power counts: between 0 (captures alike) and 1 (flows alike).
CAPTURE_POWER = 0.5
# What a group of our own recordings counts, against one of captures from elsewhere: there are many groups of them, and
# all come from one laboratory.
RECORDED = 0.1
# What a group counts whose flows come out of mixtures, against the same one as it was recorded.
MIXED = 0.3
# Most flows of a capture in a group that are learned from: those of a flood are alike.
MOST = 100


def thinned(table: pandas.DataFrame, seed: int) -> pandas.DataFrame:
    """At most MOST flows of each capture and group, drawn at random."""
    draw = numpy.random.default_rng(seed).random(len(table))
    rank = table.assign(draw=draw).groupby(["observed", "source", "category", "label"])["draw"].rank()
    return table[rank <= MOST].reset_index(drop=True)


def training_weight(table: pandas.DataFrame) -> pandas.Series:
    """A weight for each flow: (source, category, label) groups alike, in them captures by CAPTURE_POWER; both classes alike."""
    group = [table.source, table.category, table.label]
    size = table.groupby([*group, table.observed])["label"].transform("size").astype(float)
    weight = size ** (CAPTURE_POWER - 1.0)
    weight = weight / weight.groupby(group).transform("sum")
    weight = weight * numpy.where(table.source == "recorded", RECORDED, 1.0)
    weight = weight * numpy.where(table.category.str.endswith(", mixed"), MIXED, 1.0)
    return weight / weight.groupby(table.label).transform("sum") * len(table) / 2


def macro_weight(table: pandas.DataFrame) -> pandas.Series:
    """A weight for each flow so that sums are means over (source, category) groups, our own recordings as RECORDED says."""
    groups = table.groupby(["source", "category", "label"])
    weight = numpy.where(table.source == "recorded", RECORDED, 1.0) / groups["label"].transform("size")
    return weight / weight.groupby(table.label).transform("sum")


def weighted_quantile(values: Array | pandas.Series, weight: Array | pandas.Series, share: float) -> float:
    """The smallest of `values` at which `share` of the weight is reached."""
    order = numpy.argsort(numpy.asarray(values), kind="stable")
    reached = numpy.cumsum(numpy.asarray(weight)[order])
    return float(
        numpy.asarray(values)[order][min(numpy.searchsorted(reached, share * reached[-1]), len(order) - 1)]
    )
