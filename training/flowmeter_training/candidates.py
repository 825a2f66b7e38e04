"""The kinds of models that are compared. Each is fitted by `fit(table, inputs, seed)` and gives the probability of malicious."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pandas
from lightgbm import LGBMClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from .weighting import Array, training_weight

# Inputs of the model.
INPUTS = 120
# Few and shallow trees, each of a part of the inputs: what one source has for itself is not worth learning, and a flow is to
# be scored in microseconds.
TREES: dict[str, Any] = {
    "n_estimators": 100,
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_child_samples": 50,
    "subsample": 0.8,
    "subsample_freq": 1,
    "colsample_bytree": 0.3,
    "reg_lambda": 50.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}


def values(table: pandas.DataFrame, inputs: Sequence[str]) -> pandas.DataFrame:
    """The inputs as models take them."""
    return table[inputs].astype("float32")


def trees(table: pandas.DataFrame, inputs: Sequence[str], seed: int) -> LGBMClassifier:
    """Gradient-boosted trees."""
    return LGBMClassifier(**TREES, random_state=seed).fit(
        values(table, inputs), table.label, sample_weight=training_weight(table)
    )


def most_useful(table: pandas.DataFrame, inputs: Sequence[str], seed: int) -> list[str]:
    """The INPUTS of the inputs that trees gain most by, in their order: half of the columns cost half of the time."""
    gain = trees(table, inputs, seed).booster_.feature_importance("gain")
    chosen = set(numpy.argsort(-gain, kind="stable")[:INPUTS])
    return [name for number, name in enumerate(inputs) if number in chosen]


def squeezed(array: Array) -> Array:
    """Logarithms with a sign: counts, bytes and times spread over many powers of ten."""
    array = numpy.asarray(array, dtype="float32")
    return numpy.sign(array) * numpy.log1p(numpy.abs(array))


def scaled(model: Any) -> Pipeline:
    """`model` on inputs of comparable size."""
    return make_pipeline(FunctionTransformer(squeezed), StandardScaler(), model)


def linear(table: pandas.DataFrame, inputs: Sequence[str], seed: int) -> Pipeline:
    """Logistic regression."""
    model = scaled(LogisticRegression(C=0.01, max_iter=300, random_state=seed))
    return model.fit(
        values(table, inputs), table.label, logisticregression__sample_weight=training_weight(table)
    )


def neural(table: pandas.DataFrame, inputs: Sequence[str], seed: int) -> Pipeline:
    """A small network: two hidden layers."""
    model = scaled(MLPClassifier((64, 32), alpha=1.0, max_iter=40, batch_size=256, random_state=seed))
    return model.fit(values(table, inputs), table.label, mlpclassifier__sample_weight=training_weight(table))


def log_odds(model: Any, table: pandas.DataFrame, inputs: Sequence[str]) -> Array:
    """The score in log-odds for each flow."""
    probability = numpy.clip(model.predict_proba(values(table, inputs))[:, 1].astype(float), 1e-9, 1 - 1e-9)
    return numpy.log(probability / (1 - probability))


Fit = Callable[[pandas.DataFrame, Sequence[str], int], Any]
KINDS: dict[str, Fit] = {"boosted trees": trees, "linear": linear, "neural network": neural}
