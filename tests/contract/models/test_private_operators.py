"""Canary for the private operators of PyTorch that the models' fast layers call.

A new release of PyTorch may change or remove them without notice. A failure here says which call to check before the
release is accepted.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gmvaluator.models.fast_layers import onednn_computes

CHECKLIST = (
    f"PyTorch {torch.__version__} changed it. Check the call in gmvaluator/models/{{module}} against "
    "torch/_inductor/mkldnn_lowerings.py of that release; run tests/contract/models and `make test-models`, whose "
    "golden files show whether vectors moved; measure again by `gmvaluator bench models`; then record the new schema. "
    "Without the operator, `onednn_computes` has to return False: slower, with the same sums up to rounding."
)

FAST_LAYERS, FOLDING = "fast_layers.py", "folding.py"
SCHEMAS = {
    "mkldnn::_is_mkldnn_bf16_supported": (FAST_LAYERS, "() -> bool _0"),
    "mkldnn::_reorder_linear_weight": (FAST_LAYERS, "(Tensor self, int? batch_size=None) -> Tensor Y"),
    "mkldnn::_linear_pointwise": (
        FAST_LAYERS,
        "(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y",
    ),
    "onednn::qlinear_prepack": (FAST_LAYERS, "(Tensor weight, int[]? x_shape) -> Tensor"),
    "onednn::qlinear_pointwise": (
        FAST_LAYERS,
        "(Tensor qx, float x_scale, int x_zero_point, Tensor qw, Tensor w_scale, Tensor w_zero_point, Tensor? bias, "
        "float output_scale, int output_zero_point, ScalarType? output_dtype, str post_op_name, "
        "Scalar?[] post_op_args, str post_op_algorithm) -> Tensor",
    ),
    "mkldnn::_convolution_pointwise": (
        FOLDING,
        "(Tensor X, Tensor W, Tensor? B, int[] padding, int[] stride, int[] dilation, int groups, str attr, "
        "Scalar?[] scalars, str? algorithm) -> Tensor Y",
    ),
}

needs_onednn = pytest.mark.skipif(not onednn_computes(torch.float32), reason="this PyTorch has no oneDNN")


def checklist(name: str) -> str:
    return f"{name}: {CHECKLIST.format(module=SCHEMAS[name][0])}"


@needs_onednn
@pytest.mark.parametrize("name", SCHEMAS)
def test_the_operator_has_the_schema_that_the_call_was_written_for(name: str) -> None:
    namespace, operator = name.split("::")
    try:
        schema = getattr(getattr(torch.ops, namespace), operator).default._schema
    except AttributeError:
        pytest.fail(f"the operator is gone. {checklist(name)}")
    assert str(schema) == name + SCHEMAS[name][1], checklist(name)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def assert_same(name: str, outputs: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(
        outputs, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{checklist(name)}\n{text}"
    )


@needs_onednn
@pytest.mark.parametrize(
    ("activation", "algorithm", "public"),
    [("none", "", lambda x: x), ("gelu", "none", functional.gelu), ("swish", "", functional.silu)],
)
def test_a_packed_linear_layer_equals_the_public_one(
    random: torch.Generator, activation: str, algorithm: str, public: Any
) -> None:
    inputs, weight, bias = (torch.randn(shape, generator=random) for shape in ((5, 16), (8, 16), (8,)))
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    outputs = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, activation, [], algorithm)
    assert_same("mkldnn::_linear_pointwise", outputs, public(functional.linear(inputs, weight, bias)))


@needs_onednn
@pytest.mark.parametrize(
    ("activation", "bounds", "public"),
    [("none", [], lambda x: x), ("hardtanh", [0.0, 6.0], functional.relu6)],
)
def test_a_convolution_equals_the_public_one(
    random: torch.Generator, activation: str, bounds: list[float], public: Any
) -> None:
    inputs, weight, bias = (torch.randn(shape, generator=random) for shape in ((2, 4, 8, 8), (6, 4, 3, 3), (6,)))
    outputs = torch.ops.mkldnn._convolution_pointwise(
        inputs, weight, bias, [1, 1], [2, 2], [1, 1], 1, activation, bounds, ""
    )
    assert_same("mkldnn::_convolution_pointwise", outputs, public(functional.conv2d(inputs, weight, bias, 2, 1)))


@needs_onednn
def test_a_product_of_bytes_equals_the_public_one(random: torch.Generator) -> None:
    inputs = torch.randint(0, 255, (5, 16), generator=random, dtype=torch.uint8)
    weight = torch.randint(-127, 127, (8, 16), generator=random, dtype=torch.int8)
    scales, zeros = torch.full((8,), 0.01), torch.zeros(8, dtype=torch.int64)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    outputs = torch.ops.onednn.qlinear_pointwise(
        inputs, 1.0, 128, packed, scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
    )
    expected = (inputs.double() - 128) @ weight.double().T * 0.01
    assert_same("onednn::qlinear_pointwise", outputs.double(), expected, tolerance=1e-2)
