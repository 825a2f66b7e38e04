"""Writes a model as ONNX with the metadata that the agent asks for; docs/models.md explains the keys."""

import json

import numpy
import onnx
import onnxruntime
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from weighting import weighted_quantile

# Opsets that every ONNX Runtime of the last years has.
OPSET = {"": 15, "ai.onnx.ml": 3}


def export(model, path, *, name, feature_set, table, benign, weight, threshold_malicious, threshold_benign):
    """Writes a LightGBM classifier. `table` has the training flows, a column an input; `benign` and `weight` a value a flow."""
    values = table.to_numpy(dtype="float32")
    converted = convert_lightgbm(
        model, initial_types=[("features", FloatTensorType([None, values.shape[1]]))], zipmap=False,
        target_opset=OPSET[""])
    write(
        converted, path, name=name, feature_set=feature_set, inputs=list(table.columns),
        threshold_malicious=threshold_malicious, threshold_benign=threshold_benign,
        ranges=[[float(low), float(high)] for low, high in zip(values.min(axis=0), values.max(axis=0))],
        medians=[weighted_quantile(column, weight[benign], 0.5) for column in values[benign.to_numpy()].T],
        golden=values[len(values) // 2])


def write(model, path, *, name, feature_set, inputs, threshold_malicious, threshold_benign, ranges, golden, medians=None):
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
    if medians is not None:
        metadata["medians"] = json.dumps(medians)
    onnx.helper.set_model_props(model, {f"flowmeter.{key}": value for key, value in metadata.items()})
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def score(model, row):
    """The probability of malicious by ONNX Runtime, which is what the agent runs."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: row[None, :]})
    return float(next(output for output in outputs if output.dtype == numpy.float32)[0, -1])
