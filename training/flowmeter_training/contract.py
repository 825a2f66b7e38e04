"""Writes a model as ONNX with the metadata that the agent asks for; docs/models.md explains the keys.

`export` takes a fitted scikit-learn, LightGBM or XGBoost classifier, or a PyTorch module; `write` any ONNX model.
"""

import io
import json
import pathlib
import unittest.mock
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import onnx
import onnxruntime
import pandas

from .weighting import Array, weighted_quantile

# Opsets that every ONNX Runtime of the last years has.
OPSET = {"": 15, "ai.onnx.ml": 3}
# Between these quantiles of benign flows a value is normal.
NORMAL = (0.05, 0.95)
# Quantiles at which the bins of an input's distribution end.
BINS = numpy.arange(0.1, 0.95, 0.1)


def export(
    model: Any,
    path: str | pathlib.Path,
    *,
    name: str,
    feature_set: str,
    table: pandas.DataFrame,
    benign: Array | pandas.Series,
    threshold_malicious: float,
    threshold_benign: float,
    weight: Array | pandas.Series | None = None,
    ranges: list[list[float]] | None = None,
    calibration: tuple[float, float] | None = None,
) -> None:
    """Writes a classifier of the classes 0 (benign) and 1 (malicious).

    `table` has the training flows, a column an input under the feature's name, in the model's order; `benign` and `weight`
    (by default all alike) a value a flow. `ranges` are those outside of which a flow is unknown, by default those of the
    table; `calibration` is (factor, shift) of the log-odds, for trees.
    """
    values = table.to_numpy(dtype="float32")
    benign = numpy.asarray(benign, dtype=bool)
    weight = numpy.ones(len(values)) if weight is None else numpy.asarray(weight)
    classes = list(getattr(model, "classes_", (0, 1)))
    if classes != [0, 1]:
        raise ValueError(f"the model's classes are {classes}; they must be [0, 1]: benign, malicious")

    def quantiles(share: float) -> list[float]:
        return [weighted_quantile(column, weight[benign], share) for column in values[benign].T]

    if ranges is None:
        ranges = [
            [float(low), float(high)]
            for low, high in zip(values.min(axis=0), values.max(axis=0), strict=False)
        ]
    converted = convert(model, values.shape[1])
    if calibration is not None:
        calibrate(converted, *calibration)
    write(
        converted,
        path,
        name=name,
        feature_set=feature_set,
        inputs=list(table.columns),
        threshold_malicious=threshold_malicious,
        threshold_benign=threshold_benign,
        ranges=ranges,
        medians=quantiles(0.5),
        normal=list(zip(*(quantiles(share) for share in NORMAL), strict=False)),
        distribution=[distribution(column, weight) for column in values.T],
        golden=values[len(values) // 2],
    )


def convert(model: Any, columns: int) -> onnx.ModelProto:
    """The model as ONNX: one input of float32 [N, columns], one float32 output. A converter is needed for its own kind only."""
    kind = type(model).__module__.split(".")[0]
    if kind == "lightgbm":
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        return convert_lightgbm(
            model,
            initial_types=[("features", FloatTensorType([None, columns]))],
            zipmap=False,
            target_opset=OPSET[""],
        )
    if kind == "xgboost":
        from onnxmltools import convert_xgboost
        from onnxmltools.convert.common.data_types import FloatTensorType

        return convert_xgboost(
            model, initial_types=[("features", FloatTensorType([None, columns]))], target_opset=OPSET[""]
        )
    if kind == "sklearn":
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        with unittest.mock.patch.object(onnx.helper, "make_attribute", attribute(onnx.helper.make_attribute)):
            return to_onnx(
                model,
                initial_types=[("features", FloatTensorType([None, columns]))],
                options={id(model): {"zipmap": False}},
                target_opset=OPSET,
            )
    import torch  # what is left: a module that gives the probability of malicious as [N, 1], or of both as [N, 2]

    buffer = io.BytesIO()
    torch.onnx.export(
        model.eval(),
        torch.zeros(1, columns),
        buffer,
        input_names=["features"],
        output_names=["score"],
        dynamic_axes={"features": {0: "N"}, "score": {0: "N"}},
        opset_version=OPSET[""],
    )
    return onnx.load_from_string(buffer.getvalue())


def calibrate(model: onnx.ModelProto, factor: float, shift: float) -> None:
    """Changes a boosted ensemble's log-odds to `factor` times what they were, plus `shift`: in its leaves, at no cost."""
    [trees] = [node for node in model.graph.node if node.op_type == "TreeEnsembleClassifier"]
    attributes = {attribute.name: attribute for attribute in trees.attribute}
    if attributes["post_transform"].s != b"LOGISTIC":
        raise ValueError("only an ensemble that sums log-odds can be calibrated in its leaves")
    weights = attributes["class_weights"].floats
    weights[:] = [factor * weight for weight in weights]
    if "base_values" in attributes:
        raise ValueError("an ensemble with a base value is not known here")
    trees.attribute.append(onnx.helper.make_attribute("base_values", [shift]))


def attribute(make: Callable[..., Any]) -> Callable[..., Any]:
    """Onnx's make_attribute for skl2onnx, which hands over booleans (of histogram gradient boosting) that ONNX does not have."""

    def whole(key: str, value: Any, *further: Any, **named: Any) -> Any:
        if isinstance(value, list) and any(isinstance(item, (bool, numpy.bool_)) for item in value):
            value = [int(item) for item in value]
        return make(key, value, *further, **named)

    return whole


def distribution(values: Array, weight: Array) -> dict[str, list[float]]:
    """How an input is spread: edges of bins at the deciles that differ, and the share of flows in each bin."""
    edges = sorted({weighted_quantile(values, weight, share) for share in BINS} - {float(values.max())})
    bins = numpy.searchsorted(numpy.array(edges, dtype="float32"), values, side="left")
    shares = numpy.bincount(bins, weight, minlength=len(edges) + 1)
    return {"edges": edges, "shares": [round(float(share), 6) for share in shares / shares.sum()]}


def write(
    model: onnx.ModelProto,
    path: str | pathlib.Path,
    *,
    name: str,
    feature_set: str,
    inputs: Sequence[str],
    threshold_malicious: float,
    threshold_benign: float,
    ranges: list[list[float]],
    golden: Array,
    medians: list[float] | None = None,
    normal: list[tuple[float, ...]] | None = None,
    distribution: list[dict[str, list[float]]] | None = None,
) -> None:
    """Writes any ONNX model that takes and gives what the contract says. `golden` is a row of inputs, float32."""
    metadata = {
        "contract": "1",
        "name": name,
        "feature_set": feature_set,
        "inputs": json.dumps(inputs),
        "classes": json.dumps(["benign", "malicious"]),
        "threshold_malicious": str(threshold_malicious),
        "threshold_benign": str(threshold_benign),
        "ranges": json.dumps(ranges),
        "golden": json.dumps({"input": [float(value) for value in golden], "score": score(model, golden)}),
    }
    model.graph.name = name  # converters draw one, so that the same model would be another file each time
    optional = {"medians": medians, "normal": normal, "distribution": distribution}
    metadata.update({key: json.dumps(value) for key, value in optional.items() if value is not None})
    onnx.helper.set_model_props(model, {f"flowmeter.{key}": value for key, value in metadata.items()})
    onnx.checker.check_model(model)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def score(model: onnx.ModelProto, row: Array) -> float:
    """The probability of malicious by ONNX Runtime, which is what the agent runs."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: row[None, :]})
    return float(next(output for output in outputs if output.dtype == numpy.float32).reshape(-1)[-1])
