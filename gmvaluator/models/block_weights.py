"""The weights of a transformer block, found in whichever package's module holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Linear = tuple[Tensor, Tensor]
"""Weight (O, I) and bias (O,)."""


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """A pre-norm block. qkv: queries, keys and values above each other, (3 C, C).

    quick_gelu: the MLP's activation is x * sigmoid(1.702 x) instead of the exact GELU.
    """

    heads: int
    norm_1: nn.LayerNorm
    qkv: Linear
    projection: Linear
    norm_2: nn.LayerNorm
    hidden: Linear
    output: Linear
    quick_gelu: bool


def read_block(block: nn.Module) -> BlockWeights | None:
    """Weights of a plain block of open_clip, timm or DINO; None if it is of another kind or has an option we lack."""
    attention = getattr(block, "attn", None)
    if isinstance(attention, nn.MultiheadAttention):
        return _of_open_clip(block, attention)
    if _is_linear(attention, "qkv", "proj") and _is_linear(getattr(block, "mlp", None), "fc1", "fc2"):
        return _of_timm(block, attention)
    return None


def _of_open_clip(block: Any, attention: nn.MultiheadAttention) -> BlockWeights | None:
    activation = _quick_gelu(block.mlp.gelu)
    fused = attention.in_proj_weight is not None and attention.in_proj_bias is not None
    if activation is None or not fused or not attention.batch_first or hasattr(block, "ln_1_kv"):
        return None
    return BlockWeights(
        heads=attention.num_heads,
        norm_1=block.ln_1,
        qkv=(attention.in_proj_weight, attention.in_proj_bias),
        projection=_scaled(attention.out_proj, getattr(block, "ls_1", None)),
        norm_2=block.ln_2,
        hidden=_pair(block.mlp.c_fc),
        output=_scaled(block.mlp.c_proj, getattr(block, "ls_2", None)),
        quick_gelu=activation,
    )


def _of_timm(block: Any, attention: Any) -> BlockWeights | None:
    """timm's Block, and DINO's, which it descends from."""
    activation = _quick_gelu(block.mlp.act)
    extras = [getattr(attention, name, None) for name in ("q_norm", "k_norm", "norm")]
    extras += [getattr(block.mlp, "norm", None), getattr(block, "drop_path", None), getattr(block, "drop_path1", None)]
    if activation is None or not all(isinstance(extra, nn.Identity | None) for extra in extras):
        return None
    return BlockWeights(
        heads=attention.num_heads,
        norm_1=block.norm1,
        qkv=_pair(attention.qkv),
        projection=_scaled(attention.proj, getattr(block, "ls1", None)),
        norm_2=block.norm2,
        hidden=_pair(block.mlp.fc1),
        output=_scaled(block.mlp.fc2, getattr(block, "ls2", None)),
        quick_gelu=activation,
    )


def _is_linear(owner: object, *names: str) -> bool:
    """Whether these are nn.Linear themselves, and not wrapped, as unmerged LoRA layers are."""
    return all(type(getattr(owner, name, None)).__name__ in ("Linear", "NonDynamicallyQuantizableLinear")
               and isinstance(getattr(owner, name), nn.Linear) for name in names)  # fmt: skip


def _quick_gelu(activation: nn.Module) -> bool | None:
    """Whether it is QuickGELU; None if it is neither that nor the exact GELU."""
    if isinstance(activation, nn.GELU):
        return False if activation.approximate == "none" else None
    return True if type(activation).__name__ == "QuickGELU" else None


def _pair(linear: nn.Linear) -> Linear:
    bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return linear.weight.detach(), bias.detach()


def _scaled(linear: nn.Linear, scale: Any) -> Linear:
    """A linear layer with the layer scale behind it, if there is one, folded in."""
    weight, bias = _pair(linear)
    gamma = getattr(scale, "gamma", None)
    return (weight, bias) if gamma is None else (weight * gamma.detach()[:, None], bias * gamma.detach())
