"""What a timm backbone gives before it pools, in one shape: (batch, positions, channels)."""

from torch import Tensor, nn

from .errors import HalflabelError

# Families whose `forward_features` gives no single map: one at each of several scales, or the class tokens alone.
_WITHOUT_A_MAP = frozenset({"CrossVit", "EfficientViM", "EfficientViMDistilled", "PoolingVisionTransformer"})


def position_width(backbone: nn.Module) -> int:
    """Return the number of channels of each position; it may differ from that of the pooled vector.

    Raises:
        HalflabelError: If the backbone gives no map that a head could attend over.
    """
    kind = type(backbone).__name__
    if kind in _WITHOUT_A_MAP or (kind == "CoaT" and backbone.parallel_blocks is not None):
        raise HalflabelError(
            f"{kind} gives no single map of positions: take head 'linear' or 'mlp', or another backbone"
        )
    return int(backbone.num_features)  # type: ignore[arg-type]


def to_positions(maps: Tensor, backbone: nn.Module) -> Tensor:
    """Bring an unpooled map to one shape, without class, register and distillation tokens.

    Args:
        maps: What the backbone's `forward_features` gave: (batch, channels, height, width), with `output_fmt` NHWC
            (batch, height, width, channels), or (batch, tokens, channels).
        backbone: The timm model that gave it.

    Returns:
        Shape (batch, positions, channels).
    """
    if maps.ndim == 4:
        channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        return maps.flatten(1, 2) if channels_last else maps.flatten(2).transpose(1, 2)
    return maps[:, prefix_tokens(backbone) :]


def prefix_tokens(backbone: nn.Module) -> int:
    """Count the tokens before those of the positions; two families have a class token and do not say so."""
    kind = type(backbone).__name__
    if kind == "CoaT":
        return 1
    if kind == "VOLO":
        return int(backbone.post_network is not None)
    return int(getattr(backbone, "num_prefix_tokens", 0))
