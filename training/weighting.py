"""How much a flow counts: groups of flows, not floods of one tool, decide what is learned and what is measured."""

import numpy

# Of a group's n flows, n to this power counts: between 0 (groups alike) and 1 (flows alike).
GROUP_POWER = 0.0


def training_weight(table):
    """A weight for each flow: groups count by GROUP_POWER, both classes alike."""
    size = table.groupby(["source", "category", "label"])["label"].transform("size")
    weight = size.astype(float) ** (GROUP_POWER - 1.0)
    return weight / weight.groupby(table.label).transform("sum") * len(table) / 2


def macro_weight(table):
    """A weight for each flow so that sums are means over (source, category) groups."""
    groups = table.groupby(["source", "category"])
    return 1.0 / groups["label"].transform("size") / groups.ngroups


def weighted_quantile(values, weight, share):
    """The smallest of `values` at which `share` of the weight is reached."""
    order = numpy.argsort(numpy.asarray(values), kind="stable")
    reached = numpy.cumsum(numpy.asarray(weight)[order])
    return float(numpy.asarray(values)[order][min(numpy.searchsorted(reached, share * reached[-1]), len(order) - 1)])
