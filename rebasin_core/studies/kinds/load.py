"""Stage of a loaded file: a posterior, or a plain checkpoint of one network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, final

from typing_extensions import override

from rebasin_core.api.conversion import load_posterior
from rebasin_core.api.opening import digest_of_checkpoint
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.names import POSTERIOR
from rebasin_core.studies.kinds.options import NetworkOptions

if TYPE_CHECKING:
    from torch import nn

    from rebasin_core.plugin.registry import Registry
    from rebasin_core.posteriors.base import Posterior


@final
class LoadWork(Work):
    """Loads a posterior and checks that it fits the network. Its identity has the content of the file, not the path."""

    located: ClassVar[frozenset[str]] = frozenset({"path"})

    kind: Literal["load"] = "load"

    network: NetworkOptions
    """The network."""

    path: Path
    """File of a posterior, or checkpoint of any format: a file or a folder."""

    def load(self, model: nn.Module, registry: Registry) -> Posterior:
        """Read the posterior and check that it fits the network.

        Args:
            model: The network.
            registry: Registry of representations.

        Returns:
            The posterior, on the CPU and in the dtype of the file.

        Raises:
            InvalidInputError: If tensors are missing, unexpected, of other shapes or not finite.
            FileFormatError: If the file is damaged.
        """
        posterior = load_posterior(self.path, model=model, registry=registry)
        FunctionalModel(model).check({**posterior.mean, **posterior.buffers}, str(self.path))
        return posterior

    @override
    def compute(self, context: Context) -> Product:
        posterior = self.load(context.model(self.network), context.workspace.registry)
        digest = digest_of_checkpoint(self.path, registry=context.workspace.registry)
        if digest != dict(context.stage.inputs)["file"]:
            message = f"{self.path} has changed since the command started; run it again"
            raise InvalidInputError(message)
        path = context.folder / POSTERIOR
        posterior.to(dtype=self.network.torch_dtype).save(path, meta={"loaded_from": digest})
        return Product({}, {POSTERIOR: path})
