"""Convolutions folded for inference: batch norm and padding inside, one kernel library for every batch size."""

from __future__ import annotations

from itertools import pairwise

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gmvaluator.models.fast_layers import onednn_computes


class FoldedConvolution(nn.Module):
    """A 2-D convolution with bias, followed by ReLU6 if `to_six`. With stride 2 its input must have even sides.

    It computes in the dtype of its input, which must be `dtype`.

    TensorFlow pads an even side at the right and bottom only, which takes a copy of the input. The same sums come
    from symmetric padding and a kernel with one row and one column of zeros more at the top and left.
    """

    def __init__(self, convolution: nn.Conv2d, to_six: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.to_six = to_six
        side = convolution.kernel_size[0]
        self.one_sided = isinstance(convolution, Conv2dSame) and convolution.stride[0] == 2
        weight = functional.pad(convolution.weight, (1, 0, 1, 0)) if self.one_sided else convolution.weight
        weight = weight.detach().to(dtype)
        assert convolution.bias is not None
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = nn.Parameter(convolution.bias.detach().to(dtype), requires_grad=False)
        self.padding = side // 2
        self.stride = convolution.stride[0]
        self.groups = convolution.groups
        self.on_onednn = onednn_computes(dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, C, H, W) channels-last to (B, C', H / stride, W / stride)."""
        if inputs.is_cpu and self.on_onednn:
            # conv2d picks another, slower kernel for 1 x 1 on one thread and fewer than 16 rows: the last bits of a
            # row, and so its credits, would depend on the batch.
            padding, stride = [self.padding] * 2, [self.stride] * 2
            activation, bounds = ("hardtanh", [0.0, 6.0]) if self.to_six else ("none", [])
            outputs: Tensor = torch.ops.mkldnn._convolution_pointwise(
                inputs, self.weight, self.bias, padding, stride, [1, 1], self.groups, activation, bounds, ""
            )
            return outputs
        outputs = functional.conv2d(inputs, self.weight, self.bias, self.stride, self.padding, 1, self.groups)
        return functional.relu6(outputs) if self.to_six else outputs


def fold(module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Replace, in place, each convolution that a batch norm follows; below float32 ReLU6 is folded in too.

    module: in eval mode, with every norm right after its convolution, as in timm's EfficientNets. dtype: what
    convolutions compute in; the caller casts the module's input.
    """
    children = [*module.named_children(), ("", nn.Identity())]
    for (name, child), (next_name, following) in pairwise(children):
        if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            activation = getattr(following, "act", nn.Identity())
            # In float32 ReLU6 stays outside: oneDNN's turns NaN into a number, and folding it in saves no time.
            to_six = isinstance(activation, nn.ReLU6) and dtype != torch.float32
            setattr(module, name, FoldedConvolution(fuse_conv_bn_eval(child, following), to_six, dtype))
            setattr(module, next_name, nn.Identity() if to_six else activation)
        else:
            fold(child, dtype)
