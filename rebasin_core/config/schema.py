"""The JSON schema of run files, with every registered strategy in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rebasin_core.config.architecture import ArchitectureConfig
from rebasin_core.config.assignment import AssignmentConfig
from rebasin_core.config.barrier import BarrierConfig
from rebasin_core.config.dataset import DatasetConfig
from rebasin_core.config.inference import InferenceConfig
from rebasin_core.config.matcher import MatcherConfig
from rebasin_core.config.run import RunConfig
from rebasin_core.config.spec import SpecConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rebasin_core.config.base import StrategyConfig

_BASES: tuple[type[StrategyConfig], ...] = (
    ArchitectureConfig,
    BarrierConfig,
    DatasetConfig,
    InferenceConfig,
    MatcherConfig,
    AssignmentConfig,  # after the matchers, which name it
    SpecConfig,
)


def run_schema(configs: Mapping[str, Iterable[type[StrategyConfig]]]) -> dict[str, Any]:
    """Return the JSON schema of a run file.

    Args:
        configs: For every family, the configuration classes that are registered.

    Returns:
        A JSON schema (draft 2020-12): where a family's strategy is expected, its name, or any of its option sets.
    """
    schema = RunConfig.model_json_schema()
    definitions = schema["$defs"]
    for base in _BASES:
        choices: list[dict[str, Any]] = []
        names: list[str] = []
        for config in configs.get(base.family, ()):
            part = config.model_json_schema(ref_template="#/$defs/{model}")
            definitions |= part.pop("$defs", {})
            part["required"] = sorted({*part.get("required", []), "name"})
            definitions[config.__name__] = part
            choices.append({"$ref": f"#/$defs/{config.__name__}"})
            names.append(config.registry_name())
        # Any strategy may stand as its bare name, which takes all defaults.
        definitions[base.__name__] = {"oneOf": [{"enum": names}, *choices], "title": base.__name__}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
