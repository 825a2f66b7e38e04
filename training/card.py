"""The figures of a model's card: by group, by kind of model, and with parts of data and columns left out."""

import pandas

import candidates
import train
from measures import area, hit_rate, rates
from weighting import thinned


def markdown(columns, rows):
    """A table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---" for _ in columns) + "|"]
    lines += ["| " + " | ".join(f"{cell:,.3f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else str(cell)
                                for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n\n"


def by_group(table, score, trained):
    """A row for each (source, category)."""
    foreign = train.strangers(table, trained.inputs, trained.limits)
    groups = rates(table, score, trained.upper, trained.lower, foreign)
    return markdown(
        ["source", "category", "truth", "flows", "called malicious", "called benign"],
        [(row.source, row.category, "malicious" if row.label else "benign", int(row.flows), float(row.flagged), float(row.cleared))
         for row in groups.itertuples()])


AREA = {"auc": "AUC", "tpr_at_0.01": "TPR at FPR 0.01", "tpr_at_0.02": "at 0.02", "tpr_at_0.03": "at 0.03"}


def write(path, trained, table, mixtures, val, seed):
    """Writes all figures; with `val`, also those of other kinds of models and of models for which something was left out."""
    text = "# Figures\n\nWritten by `cargo xtask train`; the [model card](README.md) says what they mean.\n\n"
    if val is not None:
        text += f"## On sources never seen (split val)\n\n{len(val):,} flows; means over (source, category) groups.\n\n"
        text += markdown(["TPR", "FPR", "worst FPR", *AREA.values(), "benign called benign", "malicious called benign"],
                         [shown(trained.summary(val), "tpr", "fpr", "worst_fpr", *AREA, "cleared_benign", "cleared_malicious")])
        text += by_group(val, trained.scores(val), trained)
        text += variants(trained.inputs, pandas.concat([table, mixtures], ignore_index=True), val, seed)
    text += "## On sources left out of training, one by one\n\nThe same thresholds, models of the other sources.\n\n"
    text += by_group(table, trained.unseen, trained)
    path.write_text(text, encoding="utf-8")


def shown(figures, *names):
    """Those figures."""
    return [figures[name] for name in names]


def variants(inputs, table, val, seed):
    """What becomes of the figures on `val` with another kind of model, and without parts of data and columns."""
    def row(name, data, columns, fit=candidates.trees):
        print(f"  compared: {name}", flush=True)
        data = thinned(data.reset_index(drop=True), seed)
        score = candidates.log_odds(fit(data, columns, seed), val, columns)
        return [name, area(val, score), *(hit_rate(val, score, rate) for rate in (0.01, 0.02, 0.03))]

    around = [name for name in inputs if name.startswith(("source_", "destination_", "pair_", "service_"))]
    recorded, mixed = table.source == "recorded", table.category.str.endswith(", mixed")
    head = ["", *AREA.values()]
    text = "## Kinds of models\n\n" + markdown(head, [row(name, table, inputs, fit) for name, fit in candidates.KINDS.items()])
    rows = [row("nothing", table, inputs),
            row("what surrounds a flow", table, [name for name in inputs if name not in around]),
            row("the flow itself", table, around), row("mixtures", table[~mixed], inputs)]
    if recorded.any() and not recorded.all():
        rows += [row("our recordings", table[~recorded], inputs), row("all but our recordings", table[recorded], inputs)]
    rows += [row(source, table[table.source != source], inputs) for source in sorted(set(table.source[~recorded]))]
    other = [row(f"seed {number}", table, inputs, lambda *given: candidates.trees(*given[:2], number))
             for number in range(seed + 1, seed + 4)]
    text += "## Left out\n\n" + markdown(["left out", *AREA.values()], rows)
    return text + "## By chance\n\nThe same with other dice: differences as small as these mean nothing.\n\n" + markdown(head, other)
