"""Images of published datasets: normalization and averages over squares of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def require_divisible(pool: int, size: int) -> int:
    """Return the side of the squares over which images are averaged; raise if it does not divide the image.

    Args:
        pool: Side of the squares, in pixels.
        size: Side of the image, in pixels.

    Returns:
        The side of the squares.

    Raises:
        ValueError: If it does not divide the side of the image.
    """
    if size % pool:
        divisors = ", ".join(str(side) for side in range(1, size + 1) if size % side == 0)
        message = f"expected a divisor of {size} ({divisors}), got {pool}"
        raise ValueError(message)
    return pool


def normalized(images: Tensor, mean: Tensor | float, deviation: Tensor | float, *, pool: int) -> Tensor:
    """Return images of bytes as normalized numbers, averaged over squares of pixels.

    Args:
        images: Bytes ``[N, channels, size, size]``.
        mean: Mean to subtract, for pixels in [0, 1]; a number, or ``[channels, 1, 1]``.
        deviation: Standard deviation by which to divide, of the same form.
        pool: Side of the squares; 1 keeps every pixel.

    Returns:
        ``[N, channels, size / pool, size / pool]`` in single precision.
    """
    pixels = images.float() / 255
    return ((pixels if pool == 1 else functional.avg_pool2d(pixels, pool)) - mean) / deviation
