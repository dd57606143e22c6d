"""Simplicial complexes of low loss: simplexes that share trained vertices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, final

import torch

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.landscapes.curve import numbers_in
from rebasin_core.landscapes.points import points_in_tensors, require_points, tensors_of_points, weighted_point
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.files import read_tensors, write_tensors
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.posteriors.point import PointPosterior

_FILE_KIND = "simplicial_complex"


def log_volume(vertices: Sequence[Mapping[str, Tensor]]) -> Tensor:
    r"""Return the log volume of a simplex, by the determinant of Cayley and Menger; differentiable.

    $$ V^2 = \frac{(-1)^{n+1}}{2^n (n!)^2} \det B $$

    $B$ is the matrix of squared distances $\lVert \theta_i - \theta_j \rVert^2$, with a row and a column of ones in
    front of it and a zero in the corner.

    Args:
        vertices: $n + 1$ points by name, at least two.

    Returns:
        $\log V$, a scalar in float64; minus infinity for a degenerate simplex.

    Examples:
        >>> import torch
        >>> corners = [{"x": torch.tensor(x)} for x in ([0.0, 0.0], [2.0, 0.0], [0.0, 3.0])]
        >>> round(log_volume(corners).exp().item(), 6)
        3.0
    """
    count = len(vertices)
    n = count - 1
    distances = torch.stack([torch.stack([_squared_distance(a, b) for b in vertices]) for a in vertices])
    # Divided by their mean, since the determinant could overflow or underflow.
    scale = distances.detach().sum() / (count * n)
    if not scale > 0:
        return distances.sum() - math.inf
    bordered = torch.nn.functional.pad(distances / scale, (1, 0, 1, 0), value=1.0)
    bordered[0, 0] = 0.0
    logarithm: Tensor = torch.linalg.slogdet(bordered).logabsdet
    return (logarithm - n * math.log(2) + n * scale.log()) / 2 - math.lgamma(count)


def _squared_distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    parts = [(tensor.double() - second[name].double()).square().sum() for name, tensor in first.items()]
    return torch.stack(parts).sum()


@final
@dataclass(frozen=True, slots=True, eq=False)
class SimplicialComplex:
    r"""Simplexes $\operatorname{conv}(w_i, \theta_1, \dots, \theta_m)$, one for each network $w_i$.

    All simplexes share the connecting vertices $\theta_j$. For one network it is a single simplex; for several
    networks, the connecting vertices join them through a volume of low loss.

    Attributes:
        networks: The networks $w_i$, at least one.
        connectors: The connecting vertices $\theta_j$, at least one.
        history: Mean training loss in nats per example, without the volume term, of each epoch; empty if unknown.

    Raises:
        InvalidInputError: If there are no networks or no connecting vertices, or their tensors differ.

    References:
        G. Benton et al. (2021), "Loss surface simplexes for mode connecting volumes and fast ensembling", ICML, arXiv
        2102.13042, section 4.
    """

    networks: tuple[PointPosterior, ...]
    connectors: tuple[PointPosterior, ...]
    history: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Validate the vertices."""
        require_points(self.networks, 1, "networks of a complex")
        require_points(self.connectors, 1, "connecting vertices")
        require_points(self.vertices, 2, "vertices of a complex")

    @property
    def vertices(self) -> tuple[PointPosterior, ...]:
        """The networks, then the connecting vertices."""
        return (*self.networks, *self.connectors)

    @property
    def dimension(self) -> int:
        """The dimension of each simplex, which is the number of connecting vertices."""
        return len(self.connectors)

    @property
    def log_volumes(self) -> tuple[float, ...]:
        """The log volume of each simplex."""
        shared = [vertex.mean for vertex in self.connectors]
        return tuple(log_volume([network.mean, *shared]).item() for network in self.networks)

    @property
    def log_volume(self) -> float:
        """The log of the sum of the volumes of the simplexes."""
        return torch.logsumexp(torch.tensor(self.log_volumes, dtype=torch.float64), 0).item()

    def draw_weights(self, num_points: int, *, generator: torch.Generator) -> Tensor:
        """Return the weights of the vertices for points that are uniformly distributed over the complex.

        A simplex is drawn in proportion to its volume, and a point uniformly in it.

        Args:
            num_points: Number of points, at least 1.
            generator: Random number generator.

        Returns:
            ``[num_points, K]`` weights of the K vertices, nonnegative with sum 1, in float64.

        Raises:
            InvalidInputError: If the number of points is less than 1.
        """
        if num_points < 1:
            message = f"expected at least one point of the complex, got {num_points!r}"
            raise InvalidInputError(message)
        shares = torch.tensor(self.log_volumes, dtype=torch.float64).softmax(0)
        chosen = torch.multinomial(shares, num_points, replacement=True, generator=generator)
        inner = uniform_weights(num_points, self.dimension + 1, generator=generator)
        weights = torch.zeros((num_points, len(self.vertices)), dtype=torch.float64)
        weights[torch.arange(num_points), chosen] = inner[:, 0]
        weights[:, len(self.networks) :] = inner[:, 1:]
        return weights

    def at(self, weights: Sequence[float]) -> PointPosterior:
        """Return the network at an affine combination of the vertices.

        Args:
            weights: One weight for each vertex, with sum 1.

        Returns:
            The network; floating-point buffers have the same weights.

        Raises:
            InvalidInputError: If the number of weights or their sum differs.
        """
        if len(weights) != len(self.vertices) or abs(sum(weights) - 1) > 1e-6:
            message = f"expected {len(self.vertices)} weights with sum 1, got {list(weights)!r}"
            raise InvalidInputError(message)
        return weighted_point(self.vertices, weights)

    def posterior(self, num_samples: int = 25, *, generator: torch.Generator | None = None) -> SamplesPosterior:
        """Return an ensemble of networks that are uniformly distributed over the complex.

        Args:
            num_samples: Number of networks, at least 1.
            generator: Random number generator; seeded with 0 if None.

        Returns:
            The posterior, for `score`, `barrier` and others.

        Raises:
            InvalidInputError: If the number of networks is less than 1.
        """
        generator = generator or torch.Generator().manual_seed(0)
        weights = self.draw_weights(num_samples, generator=generator)
        return SamplesPosterior.from_points([self.at(row) for row in weights.tolist()])

    def save(self, path: Path | str) -> None:
        """Write the complex to a safetensors file, atomically.

        Args:
            path: The file.

        Raises:
            StorageError: If it cannot be written.
        """
        document = {
            "num_networks": len(self.networks),
            "num_vertices": len(self.vertices),
            "history": list(self.history),
        }
        write_tensors(path, tensors_of_points(self.vertices), kind=_FILE_KIND, document=document)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a complex that `save` wrote; no code in the file is executed.

        Args:
            path: The file.

        Returns:
            The complex, on the CPU.

        Raises:
            FileFormatError: If the file is missing, damaged, or of another kind.
        """
        tensors, document = read_tensors(path, kind=_FILE_KIND)
        try:
            points = points_in_tensors(tensors, document.get("num_vertices"))
            count = _checked_count(document.get("num_networks"), len(points))
            return cls(tuple(points[:count]), tuple(points[count:]), numbers_in(document.get("history", [])))
        except (FileFormatError, InvalidInputError) as error:
            message = f"{shown(Path(path))}: {error}; expected a complex, as `SimplicialComplex.save` writes it"
            raise FileFormatError(message) from error


def _checked_count(count: object, num_vertices: int) -> int:
    """Return the number of networks among the vertices in a file."""
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count < num_vertices:
        message = f"expected from 1 to {num_vertices - 1} networks, got {count!r}"
        raise FileFormatError(message)
    return count


def uniform_weights(num_points: int, num_vertices: int, *, generator: torch.Generator) -> Tensor:
    """Return barycentric coordinates that are uniformly distributed over a simplex (flat Dirichlet distribution).

    Args:
        num_points: Number of points, at least 0.
        num_vertices: Number of vertices, at least 1.
        generator: Random number generator.

    Returns:
        ``[num_points, num_vertices]`` in float64, each row with sum 1.
    """
    # Exponential variables divided by their sum are uniform on the simplex.
    uniform = torch.rand((num_points, num_vertices), generator=generator, dtype=torch.float64)
    exponential = -uniform.clamp_min(1e-300).log()
    return exponential / exponential.sum(1, keepdim=True)
