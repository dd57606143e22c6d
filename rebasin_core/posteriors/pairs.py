"""Multiple dispatch for functions of several posteriors: distance, divergence, geodesic, barycenter.

Each representation registers its functions in its own file, and plugins register functions for their own posteriors.
The function for two posteriors is the one registered for their nearest base classes, as in
`torch.distributions.kl.register_kl`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, final

from rebasin_core.errors import NoClosedFormError, PluginError
from rebasin_core.posteriors.base import Posterior
from rebasin_core.posteriors.capabilities import PosteriorPath

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rebasin_core.posteriors.averaging import TensorWeights

F = TypeVar("F", bound=Callable[..., Any])
PairNumber = TypeVar("PairNumber", bound=Callable[[Any, Any], float])
PairPath = TypeVar("PairPath", bound=Callable[[Any, Any], PosteriorPath])
Center = TypeVar("Center", bound=Callable[[Any, Any], Posterior])

Kinds: TypeAlias = tuple[type, ...]


@final
class Operation(Generic[F]):
    """Registry of the functions for one operation, by the classes of the posteriors.

    Args:
        name: Name of the result, for messages ("2-Wasserstein distance").
        decorator: Name of the decorator that registers a function, for messages.
        alternative: Alternative for pairs without a function, for messages.
    """

    def __init__(self, name: str, decorator: str, alternative: str) -> None:
        self._name = name
        self._decorator = f"rebasin_core.posteriors.{decorator}"
        self._alternative = alternative
        self._functions: dict[Kinds, F] = {}

    def register(self, kinds: Kinds, function: F) -> None:
        """Register a function.

        Args:
            kinds: One class per argument, or a single class for all arguments.
            function: Implementation for posteriors of these classes.

        Raises:
            PluginError: If a function is already registered for these classes.
        """
        if kinds in self._functions:
            message = (
                f"the {self._name} of {_listed(kinds)} is registered twice: by {_origin(self._functions[kinds])} and "
                f"by {_origin(function)}"
            )
            raise PluginError(message)
        self._functions[kinds] = function

    def find(self, posteriors: Sequence[Posterior]) -> F | None:
        """Return the function registered for the nearest base classes of the arguments.

        A base class is nearer than another if it is earlier in the method resolution order of the posterior's class.
        The function must be nearest for each argument.

        Args:
            posteriors: The arguments of the operation.

        Returns:
            The function; None if none is registered for base classes of these posteriors.

        Raises:
            PluginError: If several functions apply and none is nearest for each argument; the message names two.
        """
        ranks = {kinds: rank for kinds in self._functions if (rank := _rank(kinds, posteriors)) is not None}
        for kinds, rank in ranks.items():
            if all(_is_nearer(rank, other) for other in ranks.values()):
                return self._functions[kinds]
        if ranks:
            raise PluginError(self._ambiguity(ranks, posteriors))
        return None

    def require(self, posteriors: Sequence[Posterior]) -> F:
        """Return the function registered for the nearest base classes of the arguments; raise if there is none.

        Args:
            posteriors: The arguments of the operation.

        Returns:
            The function.

        Raises:
            NoClosedFormError: If none is registered; the message names the classes and the decorator.
        """
        function = self.find(posteriors)
        if function is None:
            kinds = dict.fromkeys(type(posterior) for posterior in posteriors)
            message = (
                f"no {self._name} of {_listed(kinds)} is registered; {self._alternative}, or register a function with "
                f"`@{self._decorator}`"
            )
            raise NoClosedFormError(message)
        return function

    def _ambiguity(self, ranks: dict[Kinds, tuple[int, ...]], posteriors: Sequence[Posterior]) -> str:
        """Return the error message for two applicable functions of which neither is nearer."""
        nearest = [
            kinds
            for kinds, rank in ranks.items()
            if not any(other != rank and _is_nearer(other, rank) for other in ranks.values())
        ]
        first = nearest[0]
        second = nearest[1]
        exact = _listed(type(posterior) for posterior in posteriors)
        return (
            f"the {self._name} of {exact} is ambiguous: {_origin(self._functions[first])} for {_listed(first)} and "
            f"{_origin(self._functions[second])} for {_listed(second)} both apply, and neither is nearer; register a "
            f"function for exactly these classes with `@{self._decorator}`"
        )


WASSERSTEIN: Final[Operation[Callable[[Posterior, Posterior], float]]] = Operation(
    "2-Wasserstein distance",
    "register_wasserstein",
    "use `squared_moment_distance`, a lower bound of its square",
)
KL: Final[Operation[Callable[[Posterior, Posterior], float]]] = Operation(
    "KL divergence", "register_kl", "pass two Gaussians over the same random parameters"
)
GEODESIC: Final[Operation[Callable[[Posterior, Posterior], PosteriorPath]]] = Operation(
    "2-Wasserstein geodesic",
    "register_geodesic",
    "use the path `coupled` (if the representation supports it), `moments` or `samples`",
)
BARYCENTER: Final[Operation[Callable[[Sequence[Posterior], TensorWeights], Posterior]]] = Operation(
    "2-Wasserstein barycenter",
    "register_barycenter",
    "use `moment_barycenter`, which averages means and standard deviations",
)


def register_wasserstein(first: type, second: type) -> Callable[[PairNumber], PairNumber]:
    """Return a decorator that registers a 2-Wasserstein distance for a pair of classes, in either order.

    The function receives two posteriors over parameters of the same names and shapes, and returns their distance $W_2$
    in units of the parameters. It may raise `NoClosedFormError` for pairs that it does not support.

    Args:
        first: Class of the first argument, including its subclasses.
        second: Class of the second argument, including its subclasses.

    Returns:
        The decorator, which returns the function unchanged. It raises `PluginError` if the pair is already registered.
    """

    def register(function: PairNumber) -> PairNumber:
        WASSERSTEIN.register((first, second), function)
        if first is not second:

            @wraps(function)
            def swapped(one: Posterior, other: Posterior) -> float:
                return function(other, one)

            WASSERSTEIN.register((second, first), swapped)
        return function

    return register


def register_kl(first: type, second: type) -> Callable[[PairNumber], PairNumber]:
    r"""Return a decorator that registers a KL divergence $\mathrm{KL}(q_0 \| q_1)$ for a pair of classes.

    The function receives two posteriors over parameters of the same names and shapes, in float64 and on the device of
    the first. It returns the divergence over all random parameters, in nats.

    Args:
        first: Class of $q_0$, including its subclasses.
        second: Class of $q_1$, including its subclasses.

    Returns:
        The decorator, which returns the function unchanged. It raises `PluginError` if the pair is already registered.
    """

    def register(function: PairNumber) -> PairNumber:
        KL.register((first, second), function)
        return function

    return register


def register_geodesic(first: type, second: type) -> Callable[[PairPath], PairPath]:
    """Return a decorator that registers a 2-Wasserstein geodesic for a pair of classes, in either order.

    The function receives two posteriors over tensors of the same names and shapes. It returns the path: a function from
    t in [0, 1] to a posterior, which accepts the noise of the endpoints (common random numbers). It may raise
    `NoClosedFormError` for pairs that it does not support.

    Args:
        first: Class of the posterior at t = 0, including its subclasses.
        second: Class of the posterior at t = 1, including its subclasses.

    Returns:
        The decorator, which returns the function unchanged. It raises `PluginError` if the pair is already registered.
    """

    def register(function: PairPath) -> PairPath:
        GEODESIC.register((first, second), function)
        if first is not second:

            @wraps(function)
            def reversed_path(one: Posterior, other: Posterior) -> PosteriorPath:
                path = function(other, one)
                return lambda t: path(1 - t)

            GEODESIC.register((second, first), reversed_path)
        return function

    return register


def register_barycenter(kind: type) -> Callable[[Center], Center]:
    r"""Return a decorator that registers a 2-Wasserstein barycenter for posteriors of one class.

    The barycenter is $\operatorname*{argmin}_q \sum_k w_k W_2^2(q, q_k)$. The function receives one or more posteriors
    over tensors of the same names and shapes, and their `TensorWeights`. It may raise `NoClosedFormError` for
    posteriors or weights that it does not support.

    Args:
        kind: Common class of all posteriors, including its subclasses.

    Returns:
        The decorator, which returns the function unchanged. It raises `PluginError` if the class is already registered.
    """

    def register(function: Center) -> Center:
        BARYCENTER.register((kind,), function)
        return function

    return register


def _rank(kinds: Kinds, posteriors: Sequence[Posterior]) -> tuple[int, ...] | None:
    """Return the position of each class in the method resolution order of its argument; None if one is not a base."""
    bases = kinds * len(posteriors) if len(kinds) == 1 else kinds
    orders = [type(posterior).__mro__ for posterior in posteriors]
    if not all(base in order for base, order in zip(bases, orders, strict=True)):
        return None
    return tuple(order.index(base) for base, order in zip(bases, orders, strict=True))


def _is_nearer(rank: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether the first base classes are at least as near as the others, for each argument."""
    return all(first <= second for first, second in zip(rank, other, strict=True))


def _listed(kinds: Iterable[type]) -> str:
    return " and ".join(f"`{kind.__name__}`" for kind in dict.fromkeys(kinds))


def _origin(function: Callable[..., Any]) -> str:
    return f"`{function.__module__}.{function.__qualname__}`"
