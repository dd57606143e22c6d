"""Adapters: how objects of other libraries become posteriors, and how posteriors go back into them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

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
    def to_posterior(self, source: object, *, model: nn.Module | None = None) -> Posterior:
        """Return the posterior that a foreign object represents.

        Args:
            source: An object of one of the types in `handles`.
            model: The deterministic network, for objects that do not know the names of its parameters.

        Returns:
            The posterior, keyed by the parameter names of the deterministic network.

        Raises:
            InvalidInputError: If the object is not in a state that can be read, or needs a model.
        """


class AbstractWriteBack(ABC):
    """An adapter that can put a posterior back into an object of its library.

    Laws:
        - *Lossless or not at all*: after writing back, the object gives the written posterior, and predicts as the
          posterior does; what the object cannot hold is refused before it is changed.
    """

    @abstractmethod
    def write_back(self, source: object, posterior: Posterior, *, model: nn.Module | None = None) -> None:
        """Put a posterior into an object, in place.

        Args:
            source: An object of one of the adapter's types, which gave a posterior of this kind.
            posterior: The posterior, such as the aligned one.
            model: The deterministic network, for objects that do not know the names of its parameters.

        Raises:
            InvalidInputError: If the object cannot hold this posterior.
        """
