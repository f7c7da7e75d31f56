"""MANIQA's network fused for inference: crops in, one weighted sum a crop out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.models.fast_layers import DTYPES, FusedLinear, fused_patches, optimize_blocks

_READ_BLOCKS = (6, 7, 8, 9)
"""Blocks of the ViT-B/8 whose outputs are read; later blocks are not computed."""


class ManiqaNetwork(nn.Module):
    """MANIQA's network, which computes the package's forward pass crop by crop.

    An image's quality is sum(w s) / sum(w) over all its crops.
    """

    def __init__(self, network: Any, precision: str) -> None:
        """Take `network` apart and fuse its layers; network: pyiqa's MANIQA in eval mode, on its device."""
        super().__init__()
        dtype = DTYPES[precision]
        self.vit = network.vit
        self.vit.blocks = self.vit.blocks[: _READ_BLOCKS[-1] + 1]
        optimize_blocks(self.vit.blocks, precision)
        self.vit.patch_embed.proj = fused_patches(self.vit.patch_embed.proj, precision)
        self.attention_1 = nn.ModuleList(_TokenAttention(block, dtype) for block in network.tablock1)
        self.attention_2 = nn.ModuleList(_TokenAttention(block, dtype) for block in network.tablock2)
        for stage in (network.swintransformer1, network.swintransformer2):
            _fuse_layers(stage, dtype)
        self.conv_1, self.conv_2 = _Convolution(network.conv1, dtype), _Convolution(network.conv2, dtype)
        self.swin_1, self.swin_2 = network.swintransformer1, network.swintransformer2
        self.score, self.weight = network.fc_score, network.fc_weight

    def forward(self, crops: Tensor) -> Tensor:
        """Map (N, 3, 224, 224) float32, normalised, to (N, 2): sum of weight times score, and sum of weights."""
        features = self._vit_features(crops)
        hidden = self._stage(features, self.attention_1, self.conv_1, self.swin_1)
        hidden = self._stage(hidden, self.attention_2, self.conv_2, self.swin_2)
        patches = hidden.flatten(2).transpose(1, 2)
        score, weight = self.score(patches)[..., 0], self.weight(patches)[..., 0]
        return torch.stack([(weight * score).sum(1), weight.sum(1)], dim=1)

    def _vit_features(self, crops: Tensor) -> Tensor:
        """Compute patch tokens of four blocks above each other: (N, 3, 224, 224) to (N, 3072, 784)."""
        tokens = self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(crops)))
        outputs = []
        for number, block in enumerate(self.vit.blocks):
            tokens = block(tokens)
            if number in _READ_BLOCKS:
                outputs.append(tokens[:, 1:])  # Without the class token.
        return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()

    @staticmethod
    def _stage(channels: Tensor, attention: nn.ModuleList, convolution: nn.Module, swin: nn.Module) -> Tensor:
        """Map (N, C, P) or (N, C, h, w) to (N, C', h, w)."""
        channels = channels.flatten(2)
        for block in attention:
            channels = block(channels)
        side = int(channels.shape[2] ** 0.5)
        hidden: Tensor = swin(convolution(channels.reshape(*channels.shape[:2], side, side)))
        return hidden


class _TokenAttention(nn.Module):
    """Attention among channels, each a vector over the patches. (N, C, P) float32 to the same."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        linears = [getattr(block, name) for name in ("c_q", "c_k", "c_v")]
        self.qkv = nn.ModuleList(FusedLinear(linear.weight, linear.bias, dtype) for linear in linears)

    def forward(self, channels: Tensor) -> Tensor:
        low = channels.to(self.dtype)
        query, key, value = (linear(low)[:, None] for linear in self.qkv)
        attended = functional.scaled_dot_product_attention(query, key, value)[:, 0]
        # The package transposes to (N, P, C) and reads that memory as (N, C, P); its weights were trained like that.
        return attended.transpose(1, 2).reshape(channels.shape) + channels


class _LinearLayer(nn.Module):
    """A linear layer between float32 neighbours."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.linear = FusedLinear(linear.weight, linear.bias, dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs.to(self.dtype))
        return outputs.float()


class _Convolution(nn.Module):
    """A convolution between float32 neighbours, channels last."""

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.convolution = convolution.to(dtype).to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.convolution(inputs.to(dtype=self.dtype, memory_format=torch.channels_last))
        return outputs.float()


def _fuse_layers(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace, in place, the linear layers and convolutions of a Swin stage."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, _LinearLayer(child, dtype))
        elif isinstance(child, nn.Conv2d):
            setattr(module, name, _Convolution(child, dtype))
        else:
            _fuse_layers(child, dtype)
