"""An ONNX model with the interface of an exported one that computes the mean of the channels."""

import onnx
from onnx import TensorProto, helper

DESCRIPTION = {"format": "sam-cad onnx", "version": "1", "method": "cad", "image_size": "8"}


def mean_model(description, side=8, name="mask_logits"):
    """(batch, side, side, 3) uint8 -> (batch, 1, side, side) float32, with a description as its metadata."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[3], keepdims=1),
        helper.make_node("Transpose", ["mean"], [name], perm=[0, 3, 1, 2]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", side, side, 3])
    logits = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, side, side])
    graph = helper.make_graph(nodes, "mean", [images], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, description)
    return model


def write_model(path, description, **interface):
    """Write such a model and return the path."""
    onnx.save(mean_model(description, **interface), path)
    return path
