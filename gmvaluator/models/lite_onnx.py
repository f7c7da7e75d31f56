"""The backbone of profile `lite` on ONNX Runtime, for CPUs in fp32; imports no torch.

ONNX Runtime loads in a quarter of a second where torch and timm take several, and embeds about half as many images
again (docs/results/model-speed.md). `data/lite.onnx` holds the graph without weights, written by
`evaluation.training.lite_graph`; the weights come from the pinned file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from gmvaluator.errors import MissingWeights, ModelFailed
from gmvaluator.models.lite_weights import Features
from gmvaluator.models.process_setup import usable_cores
from gmvaluator.models.specs import DATA
from gmvaluator.ports import Float32Array

GRAPH_FILE = "lite.onnx"
OUTPUTS = ("pooled", "texture")
"""Outputs of the graph that are features."""

MAPS = ("stage_3", "stage_4", "stage_5", "last")
"""Outputs of the graph that are feature maps: the three last stages and the last layer."""

_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxBackbone:
    """EfficientNet-Lite0 without its classifier, on the CPU."""

    def __init__(self, state: Mapping[str, npt.NDArray[Any]], threads: int | None = None) -> None:
        """Load the graph with the weights of `state`, by timm's names.

        threads: of one forward pass; None: as many as this process may use cores. Raises MissingWeights if the graph
        is absent or damaged, or if a weight does not fit it.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        # A spinning thread keeps the one it waits for from running where other programs use the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        names = [name for name in state if not name.endswith(_UNUSED)]
        self._weights = [
            onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(state[name], np.float32)) for name in names
        ]
        options.add_external_initializers(names, self._weights)
        try:
            graph = (DATA / GRAPH_FILE).read_bytes()
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except (OSError, *_ERRORS) as error:
            raise MissingWeights(f"{DATA / GRAPH_FILE} cannot be loaded ({error}): reinstall gmvaluator") from error

    def __call__(self, images: Float32Array) -> Features:
        """Compute the features of (B, 3, 224, 224) float32 in [-1, 1]. Raises ModelFailed."""
        return Features(*self._run(OUTPUTS, images))

    def maps(self, images: Float32Array) -> list[Float32Array]:
        """Compute the maps that `Features.pooled` are means of: four of (B, C, H, W). Raises ModelFailed."""
        return self._run(MAPS, images)

    def _run(self, outputs: Sequence[str], images: Float32Array) -> list[Float32Array]:
        try:
            values: list[Float32Array] = self._session.run(outputs, {"images": images})
        except _ERRORS as error:
            raise ModelFailed(f"the lite models failed: {error}") from error
        return values


_UNUSED = ".num_batches_tracked"
"""Suffix of timm's tensors that only training reads."""
