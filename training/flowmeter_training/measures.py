"""Measures of a score: rates and areas as means over (source, category) groups."""

from typing import TypeAlias

import numpy
import pandas
from sklearn.metrics import roc_auc_score

from .weighting import Array

Scores: TypeAlias = Array | pandas.Series


def group_weight(table: pandas.DataFrame) -> pandas.Series:
    """A weight for each flow: (source, category, label) groups alike."""
    return 1.0 / table.groupby(["source", "category", "label"])["label"].transform("size")


def area(table: pandas.DataFrame, score: Scores) -> float:
    """Area under the ROC curve."""
    return float(roc_auc_score(table.label, score, sample_weight=group_weight(table)))


def hit_rate(table: pandas.DataFrame, score: Scores, false_positives: float) -> float:
    """Largest macro share of malicious flows flagged while that of benign flows stays at or below `false_positives`."""
    order = numpy.argsort(-numpy.asarray(score), kind="stable")
    weight, label = group_weight(table).to_numpy()[order], table.label.to_numpy()[order]
    benign, malicious = numpy.cumsum(weight * (label == 0)), numpy.cumsum(weight * (label == 1))
    last = numpy.append(numpy.diff(numpy.asarray(score)[order]) != 0, True)  # ties are flagged together
    allowed = malicious[last & (benign <= false_positives * benign[-1])]
    return float(allowed[-1] / malicious[-1]) if len(allowed) else 0.0


def rates(
    table: pandas.DataFrame, score: Scores, upper: float, lower: float, foreign: Array
) -> pandas.DataFrame:
    """A row for each group: flows, share called malicious, share called benign. `foreign` flows are neither."""
    flagged, cleared = (score >= upper) & ~foreign, (score < lower) & ~foreign
    rows = pandas.DataFrame(
        {"flagged": flagged, "cleared": cleared, "bytes": table.flow_bytes}, index=table.index
    )
    rows = pandas.concat([rows, table[["source", "category", "label"]]], axis=1)
    grouped = rows.groupby(["label", "source", "category"])
    return pandas.DataFrame(
        {"flows": grouped.size(), "flagged": grouped.flagged.mean(), "cleared": grouped.cleared.mean()}
    ).reset_index()


def summary(
    table: pandas.DataFrame, score: Scores, upper: float, lower: float, foreign: Array
) -> dict[str, float]:
    """Macro figures at thresholds, and without."""
    groups = rates(table, score, upper, lower, foreign)
    malicious, benign = groups[groups.label == 1], groups[groups.label == 0]
    return {
        "tpr": float(malicious.flagged.mean()),
        "fpr": float(benign.flagged.mean()),
        "worst_fpr": float(benign.flagged.max()),
        "cleared_benign": float(benign.cleared.mean()),
        "cleared_malicious": float(malicious.cleared.mean()),
        "auc": area(table, score),
        **{f"tpr_at_{rate}": hit_rate(table, score, rate) for rate in (0.01, 0.02, 0.03)},
    }
