"""Progress bars for the phases of an alignment that run over all tensors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from torch import Tensor

    from rebasin_core.checkpoints.writing import TensorInfo


@contextmanager
def phase(
    label: str, tensors: Mapping[str, Tensor] | Mapping[str, TensorInfo], *, shown: bool
) -> Generator[Callable[[str], None]]:
    """Show a progress bar in bytes over all tensors.

    Args:
        label: Label of the bar.
        tensors: The tensors by name.
        shown: Whether to show the bar.

    Yields:
        Function that is called with the name of each tensor when it is done.
    """
    sizes = {name: _size(tensor) for name, tensor in tensors.items()}
    with tqdm(desc=label, unit="B", unit_scale=True, total=sum(sizes.values()), leave=False, disable=not shown) as bar:

        def done(name: str) -> None:
            bar.update(sizes.get(name, 0))

        yield done


def _size(tensor: Tensor | TensorInfo) -> int:
    return tensor.nbytes
