"""Options of a study file: a base run, its variations, and the pairs of posteriors to compare."""

from __future__ import annotations

import functools
import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, final

from annotated_types import MinLen
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)

from rebasin_core.barriers.base import BarrierEstimator
from rebasin_core.config.levels import as_factor, as_levels, as_pairs, as_seeds, by_name, problems_of_level
from rebasin_core.config.overrides import Overrides, overridden
from rebasin_core.config.run import PosteriorSource, RunConfig
from rebasin_core.errors import ConfigError, nearest
from rebasin_core.executors.base import Executor
from rebasin_core.executors.in_process import InProcessExecutor
from rebasin_core.matchers.base import Matcher
from rebasin_core.problems import custom_error, messages, problem_at
from rebasin_core.strategy import Options
from rebasin_core.tracking.base import Tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIANT = "variant"
"""Name of the factor of the variants."""

RESERVED = frozenset({
    *("reference", "candidate", "split", "barrier", "alignment", "matcher", "unaligned", "metric", "height"),
    *("height_stderr", "height_data_stderr", "height_bias", "location", "interior_excess", "interior_location"),
    *("reference_loss", "midpoint_loss", "candidate_loss", "baseline", "score_name", "reference_score"),
    *("midpoint_score", "candidate_score", "distance", "objective", "seconds", "match_seconds", "threads", "device"),
    *("torch", "notes", "id", "member", "train_seconds"),
})
"""Names of columns in tables of results, which factors cannot have."""

UNALIGNED = "unaligned"
"""Label of the unaligned curves, which no component can have."""

_LABEL = re.compile(r"\w[\w.+\-]*")
_MAX_LEVEL = 100
_SECONDS_OF_A_DAY = 86_400.0
Level: TypeAlias = int | float | str | bool | list[Any] | None
"""Level of a factor: a value of an option, or the name of a set of overrides."""
LevelName: TypeAlias = int | float | str
PairList: TypeAlias = tuple[tuple[LevelName, LevelName], ...]


class Against(Options):
    """Pairs of one posterior with each of the others."""

    against: LevelName
    """Name of the reference: a seed, or a name in `posteriors`."""


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of the levels of all factors.

    Attributes:
        factors: Level of each factor.
        config: The run configuration; its posteriors are not used.
        has_pairs: Whether pairs are compared; if not, posteriors are only scored.
    """

    factors: Mapping[str, Level]
    config: RunConfig
    has_pairs: bool = True

    @property
    def label(self) -> str:
        """The levels as text, such as ``width=64, variant=exact``."""
        return ", ".join(f"{name}={level}" for name, level in self.factors.items())


class StudyConfig(Options):
    """Configuration of a study: a base run and its variations.

    The *cells* of a study are all combinations of the levels of the grid's factors and of the variants. In every cell,
    one posterior is trained per seed, and all pairs (or the chosen ones) are matched by every matcher. The barrier of
    every alignment is estimated by every estimator on every split.

    Raises:
        ConfigError: If an option is unknown, missing or out of range, in the base or in one of its variations.
    """

    base: RunConfig
    """The run of which all cells are variations. `seeds` or `posteriors` replace its reference and candidate."""

    grid: dict[str, Annotated[list[Any] | dict[LevelName, Overrides], BeforeValidator(as_factor)]] = Field(
        default_factory=dict
    )
    """Factors. A list has values of the option that the name denotes, such as ``inference.epochs``. A mapping has
    levels by name; each level is a set of overrides of options."""

    variants: Annotated[dict[LevelName, Overrides], BeforeValidator(as_levels)] = Field(default_factory=dict)
    """Sets of overrides by name, each combined with the grid; the base alone if not given."""

    seeds: Annotated[tuple[NonNegativeInt, ...], MinLen(1), BeforeValidator(as_seeds)] = (1, 2, 3)
    """Seeds of the posteriors of each cell; a number n for 1 to n."""

    posteriors: dict[str, PosteriorSource] = Field(default_factory=dict)
    """Posteriors by name, instead of `seeds`, for example files to load."""

    pairs: Annotated[Literal["all", "none"] | Against | PairList, BeforeValidator(as_pairs)] = "all"
    """Pairs to compare: ``all``, ``none`` (posteriors are only scored), ``{against: NAME}``, or a list of pairs
    ``[reference, candidate]``. Names are seeds or those of `posteriors`."""

    no_pairs: tuple[LevelName, ...] = ()
    """Variants in which no pairs are compared."""

    matchers: Annotated[dict[str, Matcher], WrapValidator(by_name)] = Field(default_factory=dict)
    """Matchers by label, or a list; those of the run if not given."""

    barriers: Annotated[dict[str, BarrierEstimator], WrapValidator(by_name)] = Field(default_factory=dict)
    """Barrier estimators by label, or a list; that of the run if not given."""

    scores: bool = True
    """Whether the predictive scores of each posterior are evaluated."""

    executor: Executor = Field(default_factory=InProcessExecutor)
    """Where stages are computed; not part of their identity."""

    trackers: tuple[Tracker, ...] = ()
    """Trackers to which results are sent while the study runs; without trackers, none are sent."""

    timeout: PositiveFloat = _SECONDS_OF_A_DAY
    """Seconds after which an attempt to compute a stage is stopped."""

    retries: NonNegativeInt = 2
    """How often a stage is tried again if its worker is lost, the timeout passes, or the store cannot be written."""

    store: str | None = None
    """Folder or address of the store; that of the command line or of the environment if not given."""

    @property
    def members(self) -> dict[str, PosteriorSource]:
        """The posteriors of each cell by name."""
        return self.posteriors or {str(seed): PosteriorSource(seed=seed) for seed in self.seeds}

    def pairs_of_members(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs to compare.

        Returns:
            Names of reference and candidate.
        """
        names = list(self.members)
        if self.pairs == "all":
            return tuple(itertools.combinations(names, 2))
        if self.pairs == "none":
            return ()
        if isinstance(self.pairs, Against):
            reference = str(self.pairs.against)
            return tuple((reference, name) for name in names if name != reference)
        return tuple((str(reference), str(candidate)) for reference, candidate in self.pairs)

    def levels(self) -> dict[str, list[tuple[Level, Overrides]]]:
        """Return the levels of all factors.

        Returns:
            For each factor its levels, each with its overrides.
        """
        found: dict[str, list[tuple[Level, Overrides]]] = {}
        for name, levels in self.grid.items():
            if isinstance(levels, list):
                found[name] = [(level, {name: level}) for level in levels]
            else:
                found[name] = list(levels.items())
        if self.variants:
            found[VARIANT] = list(self.variants.items())
        return found

    def cells(self, *, lookup: Any = None) -> tuple[Cell, ...]:  # ruff: ignore[any-type] - `Lookup`, or None
        """Return all combinations of levels.

        Args:
            lookup: Finds components by name; if None, among the installed plugins.

        Returns:
            The cells, in the order of the file; the last factor varies fastest.

        Raises:
            ConfigError: If a combination is not a valid run, or two combinations are equal.
        """
        levels = self.levels()
        base = json.loads(self.base.model_dump_json())
        found: dict[RunConfig, Cell] = {}
        for combination in itertools.product(*levels.values()):
            factors = {name: level for name, (level, _) in zip(levels, combination, strict=True)}
            overrides = {option: value for _, level in combination for option, value in level.items()}
            document = overridden(base, overrides) if overrides else base
            has_pairs = factors.get(VARIANT) not in self.no_pairs or VARIANT not in factors
            cell = Cell(factors, self.base if document is base else _validated(document, factors, lookup), has_pairs)
            if cell.config in found:
                message = f"the cells ({found[cell.config].label}) and ({cell.label}) have equal options; remove one"
                raise ConfigError(message)
            found[cell.config] = cell
        return tuple(found.values())

    @field_validator("grid", "variants", mode="after")
    @classmethod
    def _usable_names(cls, value: Mapping[Any, Any], info: ValidationInfo) -> Mapping[Any, Any]:
        is_grid = info.field_name == "grid"
        for name, levels in value.items():
            if is_grid and not _LABEL.fullmatch(str(name)):
                message = f"expected a name of letters, digits and `_.+-`, got {name!r}"
                raise custom_error(message)
            names = list(levels) if is_grid and isinstance(levels, dict) else [] if is_grid else [name]
            for level in names:
                text = str(level)
                if not text.isprintable() or not 0 < len(text) <= _MAX_LEVEL or {"/", "\\"} & set(text):
                    shown = repr(text[:_MAX_LEVEL])
                    message = f"expected a level of 1 to {_MAX_LEVEL} printable characters without slashes, got {shown}"
                    raise custom_error(message)
            if is_grid and str(name) in RESERVED | {VARIANT}:
                message = f"`{name}` is the name of a column of results; choose another name"
                raise custom_error(message)
            if is_grid and not levels:
                message = f"expected at least one level of `{name}`, got none"
                raise custom_error(message)
        return value

    @field_validator("matchers", "barriers", "posteriors", mode="after")
    @classmethod
    def _usable_labels(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        for label in value:
            if not _LABEL.fullmatch(label) or label == UNALIGNED:
                message = f"expected a label of letters, digits and `_.+-` other than `{UNALIGNED}`, got {label!r}"
                raise custom_error(message)
        return value

    @model_validator(mode="after")
    def _known_members(self) -> Self:
        if self.posteriors and "seeds" in self.model_fields_set:
            message = "expected either `seeds` or `posteriors`, got both"
            raise ValueError(message)
        if len(set(self.seeds)) < len(self.seeds):
            message = f"expected different seeds, got {list(self.seeds)}"
            raise ValueError(message)
        names = self.members
        unknown = {name for pair in self.pairs_of_members() for name in pair} - set(names)
        if unknown:
            message = f"`pairs` names {sorted(unknown)}, expected names among {list(names)}"
            raise ValueError(message)
        pairs = self.pairs_of_members()
        if len(set(pairs)) < len(pairs):
            message = "expected different pairs, got a pair twice"
            raise ValueError(message)
        if any(reference == candidate for reference, candidate in self.pairs_of_members()):
            message = "expected pairs of two different posteriors"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _no_posteriors_of_base(self) -> Self:
        """Require that no file and no inference method of the base's own posteriors is ignored."""
        for role in () if self.posteriors else ("reference", "candidate"):
            source: PosteriorSource = getattr(self.base, role)
            option = "path" if source.path is not None else "inference" if source.inference is not None else None
            if option is not None:
                remedy = "list the posteriors of the study under `posteriors`, or remove the option"
                raise problem_at(("base", role), f"`{option}` has no effect, since `seeds` replace it; {remedy}")
        return self

    @model_validator(mode="after")
    def _one_factor_per_option(self) -> Self:
        """Require that every option is set by one factor, and that the study does not replace it."""
        replaced = {"reference": "posteriors", "candidate": "posteriors"}
        fixed = {"device": "all cells have one device; set it in `base`"}
        replaced |= {"matchers": "matchers"} if self.matchers else {}
        replaced |= {"barrier": "barriers"} if self.barriers else {}
        owners: dict[str, str] = {}
        for name, levels in self.levels().items():
            location: tuple[str, ...] = ("variants",) if name == VARIANT else ("grid", name)
            for option in {option: None for _, overrides in levels for option in overrides}:
                if option in fixed:
                    raise problem_at(location, f"`{option}`: {fixed[option]}")
                own = replaced.get(option.partition(".")[0])
                if own is not None:
                    raise problem_at(location, f"`{option}` has no effect in a study; use `{own}` of the study")
                owner = owners.setdefault(option, name)
                if owner != name:
                    raise problem_at(location, f"`{option}` is already set by the factor `{owner}`")
        return self

    @model_validator(mode="after")
    def _known_variants(self) -> Self:
        unknown = [name for name in self.no_pairs if name not in self.variants]
        if unknown:
            raise problem_at(
                ("no_pairs",), f"no variant {unknown[0]!r}; {nearest(str(unknown[0]), map(str, self.variants))}"
            )
        twice = [f"{label}_of_means" for label in self.barriers if f"{label}_of_means" in self.barriers]
        if twice:
            message = f"`{twice[0]}` is the label of the barrier between means; choose another label"
            raise problem_at(("barriers",), message)
        return self

    @model_validator(mode="after")
    def _valid_levels(self, info: ValidationInfo) -> Self:
        """Validate each level alone, to report problems with the line of the level."""
        lookup = (info.context or {}).get("lookup")
        base = json.loads(self.base.model_dump_json())
        problems = []
        factors = self.levels()
        for factor, levels in factors.items():
            others = {k: v for name, found in factors.items() if name != factor for k, v in found[0][1].items()}
            for index, (level, overrides) in enumerate(levels):
                locate = functools.partial(self._located, factor, index, level)
                problems += problems_of_level(base, overrides, others, locate, lookup)
        if problems:
            raise ValidationError.from_exception_data(type(self).__name__, problems)
        return self

    def _located(self, factor: str, index: int, level: Level, option: str) -> tuple[str | int, ...]:
        """Return the location of an override in the file; of the level if the option is empty."""
        if factor == VARIANT:
            prefix: tuple[str | int, ...] = ("variants", str(level))
        elif isinstance(self.grid[factor], list):
            return ("grid", factor, index)
        else:
            prefix = ("grid", factor, str(level))
        return (*prefix, option) if option else prefix


def _validated(document: Any, factors: Mapping[str, Level], lookup: Any) -> RunConfig:  # ruff: ignore[any-type] - JSON
    try:
        return RunConfig.model_validate(document, context={"lookup": lookup})
    except ValidationError as error:
        cell = ", ".join(f"{name}={level}" for name, level in factors.items())
        message = f"the cell ({cell}) is not a valid run: {'; '.join(messages(error.errors()))}"
        raise ConfigError(message) from None
