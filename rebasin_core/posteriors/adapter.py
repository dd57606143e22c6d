"""Adapters: convert objects of other libraries to posteriors, and write posteriors back into them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

    from rebasin_core.posteriors.base import Posterior


class PosteriorAdapter(ABC):
    """Conversion of objects of another library to posteriors.

    An adapter is selected by the qualified name of the object's type, or of one of its bases. The library that defines
    the type is not imported.

    Laws:
        - *No side effects*: the object is not changed, and the posterior shares no memory with it.
    """

    handles: ClassVar[tuple[str, ...]]
    """Qualified names of the types that it converts, such as ``"laplace.baselaplace.DiagLaplace"``."""

    @abstractmethod
    def to_posterior(self, source: object, *, model: nn.Module | None = None) -> Posterior:
        """Return the posterior that an object of another library represents.

        Args:
            source: Object of one of the types in `handles`.
            model: Deterministic network, for objects that do not store the names of its parameters; None otherwise.

        Returns:
            The posterior, keyed by the parameter names of the deterministic network.

        Raises:
            InvalidInputError: If the object cannot be read in its present state, or the model is missing.
        """


class AbstractWriteBack(ABC):
    """Adapter that can write a posterior back into an object of its library.

    Laws:
        - *Write-back*: after writing back, the object converts to the written posterior and has its predictive
          distribution. If the object cannot represent the posterior, an error is raised before it is changed.
    """

    @abstractmethod
    def write_back(self, source: object, posterior: Posterior, *, model: nn.Module | None = None) -> None:
        """Write a posterior into an object, in place.

        Args:
            source: Object of one of the adapter's types, which converts to a posterior of the same representation.
            posterior: The posterior, for example after alignment.
            model: Deterministic network, for objects that do not store the names of its parameters; None otherwise.

        Raises:
            InvalidInputError: If the object cannot represent this posterior.
        """
