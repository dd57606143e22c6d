"""Adapters: how objects of other libraries, and plain modules, become posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

from torch import nn
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior


class PosteriorAdapter(ABC):
    """Turns objects of a foreign type into posteriors.

    It is found by the qualified name of the type, or of one of its bases, so that the library that defines the type is
    never imported for it.

    Laws:
        - The object is not changed, and the posterior shares no memory with it.
    """

    handles: ClassVar[tuple[str, ...]]
    """Qualified names of the types it takes, such as ``"laplace.baselaplace.DiagLaplace"``."""

    @abstractmethod
    def to_posterior(self, source: object) -> Posterior:
        """Return the posterior that a foreign object stands for.

        Args:
            source: An object of one of the types in `handles`.

        Returns:
            The posterior, keyed by the parameter names of the deterministic network.

        Raises:
            InvalidInputError: If the object is not in a state that can be read.
        """


@final
class ModuleAdapter(PosteriorAdapter):
    """A module stands for the point at which it is.

    Example:
        >>> from torch import nn
        >>> ModuleAdapter().to_posterior(nn.Linear(2, 3)).kind
        'point'
    """

    handles: ClassVar[tuple[str, ...]] = ("torch.nn.modules.module.Module",)

    @override
    def to_posterior(self, source: object) -> Posterior:
        if not isinstance(source, nn.Module):
            message = f"expected a torch module, got {type(source).__name__}"
            raise InvalidInputError(message)
        return PointPosterior.from_module(source)
