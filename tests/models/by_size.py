"""Writes by-size.onnx, the model of the pre-filter's tests: a flow's verdict is told by its largest packet, so that a test
chooses it. From 1200 bytes on it gives what is no probability, as a broken model does.

    python3 tests/models/by_size.py        # with the packages of training/requirements.txt
"""

import pathlib
import sys

import numpy
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "training"))
from flowmeter_training.contract import OPSET, write  # noqa: E402

# Bytes: benign below the first, malicious from the second on, broken from the third on.
BENIGN, MALICIOUS, BROKEN = 300.0, 600.0, 1200.0


def model():
    """score = size / 1000; minus the square root of what is left to BROKEN, times nothing: no number beyond it."""
    constants = {"thousand": 1000.0, "broken": BROKEN, "nothing": 0.0, "one": 1.0}
    nodes = [
        helper.make_node("Sub", ["broken", "features"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["root"]),
        helper.make_node("Mul", ["root", "nothing"], ["zero"]),
        helper.make_node("Div", ["features", "thousand"], ["scaled"]),
        helper.make_node("Min", ["scaled", "one"], ["capped"]),
        helper.make_node("Add", ["capped", "zero"], ["malicious"]),
        helper.make_node("Sub", ["one", "malicious"], ["benign"]),
        helper.make_node("Concat", ["benign", "malicious"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "by-size",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [
            numpy_helper.from_array(numpy.array(value, dtype="float32"), name)
            for name, value in constants.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET[""])], ir_version=8)


write(
    model(),
    ROOT / "tests" / "models" / "by-size.onnx",
    name="by-size",
    feature_set="flowmeter/v1",
    inputs=["size_max"],
    threshold_malicious=MALICIOUS / 1000,
    threshold_benign=BENIGN / 1000,
    ranges=[[0.0, 1e9]],
    golden=numpy.array([100.0], dtype=numpy.float32),
)
