"""Writes Deepfence FlowMeter's logistic regression as a model of `seed-39/v1`, to compare with: models/seed-39.onnx.

    python -m flowmeter_training.seed39 --output models/seed-39.onnx

The figures are those of deepfence/FlowMeter, ml/parameters/{mean,std,weights,intercept}.txt. It read them as float32 and
computed in float64, and so does the graph. models/README.md says what the model is good for.
"""

import argparse
import pathlib

import numpy
from onnx import ModelProto, TensorProto, helper, numpy_helper

from . import contract

INTERCEPT = -4.573034944550863345e-01
# Mean, scale and weight of each quantity. In training every packet counted as backward, so that each stands there for the
# whole flow as well, with half of the weight at either place.
QUANTITIES = {
    "flowDuration": (5.748271814070246124e10, 1.303740351954582825e11, -8.392221470918165283e-02),
    "flowLength": (3.729285256252158121e01, 2.408146487123611834e01, 2.710215096993159323e-01),
    "packetSizeTotal": (2.060187668327331994e04, 3.222835785166099595e04, 6.047531163760908740e-02),
    "packetSizeMean": (4.433445348715528098e02, 4.555067366938145597e02, -8.921054659616001886e-03),
    "packetSizeStd": (3.211564804261329300e02, 2.186879039151168058e02, -1.001643284866106029e-02),
    "packetSizeMin": (6.384116805603512290e01, 9.872472890102853782e00, 2.127718437658089878e-01),
    "packetSizeMax": (1.034554136043012932e03, 4.955545439848189062e02, -1.475963198500402362e-01),
    "IATMean": (2.264732531988358974e09, 5.257787841386518478e09, -7.145705141928719584e-02),
    "IATStd": (4.021570359098308086e09, 2.075355991077955627e10, -1.930508074834168253e-02),
    "IATMin": (1.874170429438168881e06, 3.524074792816998810e07, -4.570017850964282549e-03),
    "IATMax": (1.527362624474601746e10, 1.088493877366949310e11, -9.826601449712512801e-03),
    "flowLengthPerTime": (1.438306592279136695e-08, 3.854161791382788326e-08, 9.043107175375054985e-02),
    "packetSizeTotalPerTime": (1.200107515404869046e-05, 5.036064802513351218e-05, 1.539392103898840625e-01),
}
# Of the 39 columns, in their order, the quantity that each was in training; of the forward ones, but for a mean that an
# older version took over both directions, there was never anything.
COLUMNS: dict[str, str | None] = {
    "flowDuration": "flowDuration",
    "flowLength": "flowLength",
    "fwdFlowLength": None,
    "bwdFlowLength": "flowLength",
    "packetSizeTotal": "packetSizeTotal",
    "packetSizeMean": "packetSizeMean",
    "packetSizeStd": "packetSizeStd",
    "packetSizeMin": "packetSizeMin",
    "packetSizeMax": "packetSizeMax",
    "fwdPacketSizeTotal": None,
    "bwdPacketSizeTotal": "packetSizeTotal",
    "fwdPacketSizeMean": "packetSizeMean",
    "bwdPacketSizeMean": "packetSizeMean",
    "fwdPacketSizeStd": None,
    "bwdPacketSizeStd": "packetSizeStd",
    "fwdPacketSizeMin": None,
    "bwdPacketSizeMin": "packetSizeMin",
    "fwdPacketSizeMax": None,
    "bwdPacketSizeMax": "packetSizeMax",
    "IATMean": "IATMean",
    "IATStd": "IATStd",
    "IATMin": "IATMin",
    "IATMax": "IATMax",
    "fwdIATTotal": None,
    "bwdIATTotal": "flowDuration",
    "fwdIATMean": None,
    "bwdIATMean": "IATMean",
    "fwdIATStd": None,
    "bwdIATStd": "IATStd",
    "fwdIATMin": None,
    "bwdIATMin": "IATMin",
    "fwdIATMax": None,
    "bwdIATMax": "IATMax",
    "flowLengthPerTime": "flowLengthPerTime",
    "fwdFlowLengthPerTime": None,
    "bwdFlowLengthPerTime": "flowLengthPerTime",
    "packetSizeTotalPerTime": "packetSizeTotalPerTime",
    "fwdPacketSizeTotalPerTime": None,
    "bwdPacketSizeTotalPerTime": "packetSizeTotalPerTime",
}
NOTHING = (0.0, 1.0, 0.0)


def parameters_of(quantity: str | None) -> tuple[float, float, float]:
    """Mean, scale and weight."""
    return QUANTITIES[quantity] if quantity else NOTHING


def graph() -> ModelProto:
    """sigmoid((x - mean) / scale * weight + intercept), from and to float32, in between float64."""
    parameters = numpy.array([parameters_of(quantity) for quantity in COLUMNS.values()])
    mean, scale, weight = parameters.astype("float32").astype("float64").T
    intercept = numpy.array([INTERCEPT]).astype("float32").astype("float64")
    constants = {"mean": mean, "scale": scale, "weight": weight[:, None], "intercept": intercept}
    nodes = [
        helper.make_node("Cast", ["features"], ["exact"], to=TensorProto.DOUBLE),
        helper.make_node("Sub", ["exact", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weight"], ["sum"]),
        helper.make_node("Add", ["sum", "intercept"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
        helper.make_node("Cast", ["probability"], ["score"], to=TensorProto.FLOAT),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "seed-39",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(COLUMNS)])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", contract.OPSET[""])],
    )


def main() -> None:
    """Writes the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the ONNX file to write")
    arguments = parser.parse_args()
    # Nobody published the ranges of training, so that no flow is outside of them; an average flow proves the graph.
    widest = float(numpy.finfo("float32").max)
    average = [parameters_of(quantity)[0] for quantity in COLUMNS.values()]
    contract.write(
        graph(),
        arguments.output,
        name="seed-39",
        feature_set="seed-39/v1",
        inputs=list(COLUMNS),
        threshold_malicious=0.5,
        threshold_benign=0.5,
        ranges=[[-widest, widest]] * len(COLUMNS),
        golden=numpy.array(average, dtype="float32"),
    )


if __name__ == "__main__":
    main()
