"""The figures of a model's card: by group, by kind of model, and with parts of data and columns left out."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import pandas

from . import candidates
from .fitting import Trained, strangers
from .measures import Scores, area, hit_rate, rates
from .weighting import thinned


def markdown(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---" for _ in columns) + "|"]
    lines += ["| " + " | ".join(cell_text(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n\n"


def cell_text(cell: object) -> str:
    """A cell as the page has it."""
    if isinstance(cell, float):
        return f"{cell:,.3f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def by_group(table: pandas.DataFrame, score: Scores, trained: Trained) -> str:
    """A row for each (source, category)."""
    foreign = strangers(table, trained.inputs, trained.limits)
    groups = rates(table, score, trained.upper, trained.lower, foreign)
    return markdown(
        ["source", "category", "truth", "flows", "called malicious", "called benign"],
        [
            (
                row.source,
                row.category,
                "malicious" if row.label else "benign",
                int(row.flows),
                float(row.flagged),
                float(row.cleared),
            )
            for row in groups.itertuples()
        ],
    )


AREA = {"auc": "AUC", "tpr_at_0.01": "TPR at FPR 0.01", "tpr_at_0.02": "at 0.02", "tpr_at_0.03": "at 0.03"}


def write(
    path: pathlib.Path,
    trained: Trained,
    table: pandas.DataFrame,
    mixtures: pandas.DataFrame,
    val: pandas.DataFrame | None,
    seed: int,
) -> None:
    """Writes all figures; with `val`, also those of other kinds of models and of models for which something was left out."""
    text = "# Figures\n\nWritten by `cargo xtask train`; the [model card](README.md) says what they mean.\n\n"
    if val is not None:
        text += f"## On sources never seen (split val)\n\n{len(val):,} flows; means over (source, category) groups.\n\n"
        text += markdown(
            ["TPR", "FPR", "worst FPR", *AREA.values(), "benign called benign", "malicious called benign"],
            [
                shown(
                    trained.summary(val),
                    "tpr",
                    "fpr",
                    "worst_fpr",
                    *AREA,
                    "cleared_benign",
                    "cleared_malicious",
                )
            ],
        )
        text += by_group(val, trained.scores(val), trained)
        text += variants(trained.inputs, pandas.concat([table, mixtures], ignore_index=True), val, seed)
    text += "## On sources left out of training, one by one\n\nThe same thresholds, models of the other sources.\n\n"
    text += by_group(table, trained.unseen, trained)
    path.write_text(text, encoding="utf-8")


def shown(figures: dict[str, float], *names: str) -> list[float]:
    """Those figures."""
    return [figures[name] for name in names]


def variants(inputs: Sequence[str], table: pandas.DataFrame, val: pandas.DataFrame, seed: int) -> str:
    """What becomes of the figures on `val` with another kind of model, and without parts of data and columns."""

    def row(
        name: str, data: pandas.DataFrame, columns: Sequence[str], fit: candidates.Fit = candidates.trees
    ) -> list[Any]:
        print(f"  compared: {name}", flush=True)
        data = thinned(data.reset_index(drop=True), seed)
        score = candidates.log_odds(fit(data, columns, seed), val, columns)
        return [name, area(val, score), *(hit_rate(val, score, rate) for rate in (0.01, 0.02, 0.03))]

    around = [name for name in inputs if name.startswith(("source_", "destination_", "pair_", "service_"))]
    recorded, mixed = table.source == "recorded", table.category.str.endswith(", mixed")
    head = ["", *AREA.values()]
    text = "## Kinds of models\n\n" + markdown(
        head, [row(name, table, inputs, fit) for name, fit in candidates.KINDS.items()]
    )
    rows = [
        row("nothing", table, inputs),
        row("what surrounds a flow", table, [name for name in inputs if name not in around]),
        row("the flow itself", table, around),
        row("mixtures", table[~mixed], inputs),
    ]
    if recorded.any() and not recorded.all():
        rows += [
            row("our recordings", table[~recorded], inputs),
            row("all but our recordings", table[recorded], inputs),
        ]
    rows += [
        row(source, table[table.source != source], inputs) for source in sorted(set(table.source[~recorded]))
    ]

    def with_seed(number: int) -> candidates.Fit:
        return lambda data, columns, _: candidates.trees(data, columns, number)

    seeds = range(seed + 1, seed + 4)
    other = [row(f"seed {number}", table, inputs, with_seed(number)) for number in seeds]
    text += "## Left out\n\n" + markdown(["left out", *AREA.values()], rows)
    return (
        text
        + "## By chance\n\nThe same with other dice: differences as small as these mean nothing.\n\n"
        + markdown(head, other)
    )
