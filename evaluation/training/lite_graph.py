"""The ONNX graph of profile `lite`'s backbone, written to `gmvaluator/models/data/lite.onnx`.

    python -m evaluation.training.lite_graph

The graph computes what `gmvaluator.models.lite_network.Backbone` computes: images (B, 3, H, W) float32, of even sides,
to pooled (B, 1752), texture (B, 1024) and the four maps that are pooled. It holds no weights: each of its 245 tensors
has timm's name, by which `gmvaluator.models.lite_onnx` gives ONNX Runtime the pinned weights. ONNX Runtime folds batch
norms itself.

Needs the package `onnx`, which the product does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import safetensors.numpy
from onnx import TensorProto, helper

from gmvaluator.files import atomic_write
from gmvaluator.models.lite_onnx import GRAPH_FILE, MAPS, OUTPUTS
from gmvaluator.models.lite_weights import BACKBONE_FILE, STAGE_BLOCKS
from gmvaluator.models.specs import DATA

OPSET = 17
IR_VERSION = 8
STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Stride of the first layer of each of EfficientNet-Lite0's seven blocks (Tan and Le 2019; TensorFlow's `lite0`)."""

EPSILON = 1e-3
"""Epsilon of TensorFlow's batch norms."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the weights by name; kernels, channels and groups follow from them."""


class _Graph:
    """A graph under construction; its methods add nodes and return the name of their output."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.nodes: list[onnx.NodeProto] = []
        self.used: list[str] = []

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, name: str) -> str:
        self.used.append(name)
        return name

    def convolution(self, hidden: str, layer: str, norm: str, stride: int = 1, clipped: bool = True) -> str:
        """Add a convolution without bias, its batch norm, and ReLU6 if `clipped`."""
        outputs, inputs, _, side = self.shapes[f"{layer}.weight"]
        before, after = _padding(side, stride)
        hidden = self.add(
            "Conv",
            hidden,
            self.weight(f"{layer}.weight"),
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=outputs if inputs == 1 else 1,
        )
        parts = [self.weight(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        hidden = self.add("BatchNormalization", hidden, *parts, epsilon=EPSILON)
        return self.add("Clip", hidden, "zero", "six") if clipped else hidden

    def layer(self, hidden: str, name: str, stride: int) -> str:
        """Add one inverted residual, or the depthwise separable layer of the first block, which does not expand."""
        if f"{name}.conv_pwl.weight" not in self.shapes:
            inner = self.convolution(hidden, f"{name}.conv_dw", f"{name}.bn1", stride)
            return self.convolution(inner, f"{name}.conv_pw", f"{name}.bn2", clipped=False)
        inner = self.convolution(hidden, f"{name}.conv_pw", f"{name}.bn1")
        inner = self.convolution(inner, f"{name}.conv_dw", f"{name}.bn2", stride)
        inner = self.convolution(inner, f"{name}.conv_pwl", f"{name}.bn3", clipped=False)
        inputs, outputs = self.shapes[f"{name}.conv_pw.weight"][1], self.shapes[f"{name}.conv_pwl.weight"][0]
        return self.add("Add", inner, hidden) if stride == 1 and inputs == outputs else inner

    def moments(self, hidden: str) -> tuple[str, str]:
        """Add mean and standard deviation of each channel, both (B, C)."""
        # Not GlobalAveragePool, which loses four digits on the 12,544 pixels of the first stage.
        mean = self.mean(hidden)
        deviation = self.add("Sub", hidden, mean)
        variance = self.mean(self.add("Mul", deviation, deviation))
        return self.add("Flatten", mean), self.add("Flatten", self.add("Sqrt", variance))

    def mean(self, hidden: str) -> str:
        """Add the mean of each channel: (B, C, H, W) to (B, C, 1, 1)."""
        return self.add("ReduceMean", hidden, axes=[2, 3], keepdims=1)


def _padding(side: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after an even side: TensorFlow pads as little as possible, and more after."""
    total = side - stride
    return (side // 2, side // 2) if stride == 1 else (total // 2, total - total // 2)


def lite_graph(shapes: Shapes) -> onnx.ModelProto:
    """Build the graph for weights of these shapes."""
    graph = _Graph(shapes)
    hidden = graph.convolution("images", "conv_stem", "bn1", stride=2)
    moments: list[tuple[str, str]] = []
    stages: list[str] = []
    for block, stride in enumerate(STRIDES):
        layer = 0
        while any(name.startswith(f"blocks.{block}.{layer}.") for name in shapes):
            hidden = graph.layer(hidden, f"blocks.{block}.{layer}", stride if layer == 0 else 1)
            layer += 1
        if block in STAGE_BLOCKS:
            moments.append(graph.moments(hidden))
            stages.append(hidden)
    head = graph.convolution(hidden, "conv_head", "bn2")
    last = graph.add("Flatten", graph.mean(head))
    for name, stage in zip(MAPS, [*stages[-3:], head], strict=True):
        graph.add("Identity", stage, output=name)
    graph.add("Concat", *[mean for mean, _ in moments[-3:]], last, output="pooled", axis=1)
    graph.add("Concat", *[values for pair in moments for values in pair], output="texture", axis=1)
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("zero", 0), ("six", 6))]
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "lite",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
            [
                *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in OUTPUTS),
                *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *[None] * 3]) for name in MAPS),
            ],
            [*constants, *(_external(name, shapes[name]) for name in graph.used)],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


def _external(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    """Return a tensor whose values are given at load time."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=BACKBONE_FILE)
    return tensor


def shipped_shapes(path: Path = DATA / BACKBONE_FILE) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the shipped weights by name."""
    return {name: tensor.shape for name, tensor in safetensors.numpy.load_file(path).items()}


if __name__ == "__main__":
    atomic_write(DATA / GRAPH_FILE, lite_graph(shipped_shapes()).SerializeToString(deterministic=True))
