"""Stage of a network: derives its permutation symmetries, and checks that they preserve its function."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from typing_extensions import override

from rebasin_core.api.tracing import installed_rules
from rebasin_core.errors import DataError
from rebasin_core.specs.base import SpecFactory
from rebasin_core.specs.check import SpecCheck, check_spec
from rebasin_core.specs.files import spec_document, spec_from_document
from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.options import DataOptions, NetworkOptions
from rebasin_core.tensors.digests import digest_of_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from rebasin_core.data.examples import Examples
    from rebasin_core.plugin.registry import Registry
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.studies.store import Artifact

_NUM_EXAMPLES = 4


def example_inputs(examples: Examples) -> Tensor:
    """Return the inputs on which symmetries are derived and checked; a few suffice to detect changed outputs."""
    return examples.inputs[:_NUM_EXAMPLES]


def digest_of_inputs(examples: Examples) -> str:
    """Return the digest of the inputs on which symmetries are derived and checked."""
    return digest_of_tensors({"inputs": example_inputs(examples)})


@final
class NetworkWork(Work):
    """Derives the specification of a network, and checks it numerically on a few inputs."""

    located: ClassVar[frozenset[str]] = frozenset({"data"})

    kind: Literal["network"] = "network"

    network: NetworkOptions
    """The network."""

    spec: SpecFactory | None = None
    """Specification factory; that of the architecture if None."""

    data: DataOptions
    """The examples, of which a few are used."""

    def derive(self, model: nn.Module, inputs: Tensor, registry: Registry) -> PermutationSpec:
        """Return the specification.

        Args:
            model: The network.
            inputs: Example inputs.
            registry: Registry of operator rules.

        Returns:
            The specification, not yet checked.

        Raises:
            SpecError: If it cannot be derived.
        """
        if self.spec is None:
            return self.network.architecture.spec(model)
        return self.spec.derive(model, inputs, rules=installed_rules(registry))

    @override
    def compute(self, context: Context) -> Product:
        examples = context.workspace.unverified(self.data)
        if digest_of_inputs(examples) != dict(context.stage.inputs)["examples"]:
            message = f"the first examples of the dataset `{self.data.source.name}` have changed; run the command again"
            raise DataError(message)
        inputs = example_inputs(examples)
        model = context.model(self.network)
        spec = self.derive(model, inputs, context.workspace.registry)
        report = check_spec(spec, model, inputs)
        # Whether untested tensors are accepted is decided by each run that uses the result.
        report.require(allow_untested=True)
        fields = {**asdict(report), "failing_groups": dict(report.failing_groups), "untested": dict(report.untested)}
        return Product({"specification": spec_document(spec), "check": fields})


def spec_in(artifact: Artifact) -> PermutationSpec:
    """Return the specification in the result of a network's stage.

    Args:
        artifact: The stored result.

    Returns:
        The specification, which was checked.

    Raises:
        FileFormatError: If the result has another format.
    """
    return spec_from_document(artifact.documents["specification"])


def require_tested(artifact: Artifact, *, allow_untested: bool) -> None:
    """Raise if tensors are untested and this is not accepted.

    Args:
        artifact: The stored result of a network's stage.
        allow_untested: Whether untested tensors are accepted.

    Raises:
        SpecError: If they are not accepted; names the tensors.
    """
    fields: Mapping[str, Any] = artifact.documents["check"]
    SpecCheck(**fields).require(allow_untested=allow_untested)
