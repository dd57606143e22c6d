"""Title and description of a run: network, dataset, training, seeds, barrier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rebasin_core.report.records import Choice, Configuration, Source


def title_of(config: Configuration) -> str:
    """Return the title: the network with its widths, and the dataset. It has no path: equal runs have equal reports.

    Args:
        config: The configuration.

    Returns:
        Text such as ``mlp (activation relu, hidden 256 256) on digits``.
    """
    return f"{_named(config.architecture)} on {config.data.name}"


def description_of(config: Configuration) -> list[str]:
    """Return lines on the training, the seeds and the barrier.

    Args:
        config: The configuration.

    Returns:
        The lines.
    """
    posteriors = "; ".join(
        f"{role}: {_source(source)}"
        for role, source in (("reference", config.reference), ("candidate", config.candidate))
    )
    training = _named(config.inference, ("epochs", "num_members", "num_samples", "prior_scale", "optimizer"))
    barrier = _named(config.barrier, ("num_points", "num_samples", "path", "estimator"))
    return [f"Inference: {training}; {posteriors}.", f"Barrier: {barrier}."]


def _source(source: Source) -> str:
    if source.path is not None:
        return "loaded from a file"
    return f"seed {source.seed}"


def _named(choice: Choice, keys: tuple[str, ...] | None = None) -> str:
    """Return a component's name with the given options; if None, with all that are numbers, lists or texts."""
    options = choice.model_extra or {}
    chosen = options if keys is None else {key: options[key] for key in keys if key in options}
    texts = [
        f"{key.removeprefix('num_').replace('_', ' ')} {text}"
        for key, value in chosen.items()
        if (text := _text(value))
    ]
    return f"{choice.name} ({', '.join(texts)})" if texts else choice.name


def _text(value: Any) -> str:  # ruff: ignore[any-type] - JSON
    """Return an option as text; empty for switches and for options that are not set."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, dict):
        rate = f", learning rate {value['lr']:g}" if isinstance(value.get("lr"), int | float) else ""
        return f"{value.get('name', '')}{rate}"
    if isinstance(value, list):
        return " ".join(map(str, value)) if all(isinstance(each, int | float | str) for each in value) else ""
    return f"{value:g}" if isinstance(value, float) else str(value)
