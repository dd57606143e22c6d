"""Posteriors in state dicts and arrays of other libraries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.posteriors.foreign.layout import (
    LAYOUTS,
    from_bayesian_layers,
    from_swag_moments,
    unknown_layout,
)
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.archives import read_npz
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.files import read_tensors
from rebasin_core.tensors.modules import copied
from rebasin_core.tensors.names import COUNT_OF_AVERAGED, buffers_among

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from rebasin_core.posteriors.base import Posterior

_SWAG = re.compile(r"^(?:base\.)?(?P<prefix>.*?)(?P<name>[^.]+?)_(?P<part>sq_mean|cov_mat_sqrt|mean)$")
_WRAPPED_SWAG = re.compile(r"^(?:.*\.)?swag_stats\.(?P<name>.+?)_(?P<part>sq_mean|covariance_sqrt|mean)$")
_LEAST_VARIANCE = 1e-30


def from_state_dict(tensors: Mapping[str, Tensor], *, swag_scale: float = 0.5) -> Posterior:
    r"""Return the posterior in a state dict of another library, recognized by the names of its tensors.

    - Bayesian layers (bayesian-torch, torch-uncertainty, blitz, torchbnn): a diagonal Gaussian with the parameter names
      of the deterministic network. Parameters of other layers are fixed. The standard deviation is
      $\log(1 + e^\rho)$ of ``rho`` (torch-uncertainty: ``sigma``); for torchbnn, $e^x$ of ``log_sigma``.
    - SWAG (swa_gaussian, torch-uncertainty): a low-rank Gaussian with the covariance of the paper, which may differ
      from the one that the library samples from.
    - ``torch.optim.swa_utils.AveragedModel``: a point mass.

    Args:
        tensors: The state dict.
        swag_scale: Factor of the covariance of SWAG, positive; 1/2 as in the paper by default.

    Returns:
        The posterior.

    Raises:
        InvalidInputError: If the names are not those of a known library, or tensors are missing.

    References:
        W. Maddox et al. (2019), "A simple baseline for Bayesian uncertainty in deep learning", NeurIPS, arXiv
        1902.02476, equation 1 (the covariance of SWAG).

    Examples:
        >>> state = {"fc.mu_weight": torch.zeros(2, 3), "fc.rho_weight": torch.full((2, 3), -3.0)}
        >>> from_state_dict(state).mean.keys()
        dict_keys(['fc.weight'])
    """
    tensors = {name: tensor.detach() for name, tensor in tensors.items()}
    for pattern, names in ((_WRAPPED_SWAG, "covariance_sqrt"), (_SWAG, "cov_mat_sqrt")):
        if any((match := pattern.match(name)) and match["part"] == "sq_mean" for name in tensors):
            return _swag(tensors, pattern, names, swag_scale)
    if COUNT_OF_AVERAGED in tensors:
        own = {n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")}
        buffers = buffers_among(own)
        return PointPosterior({n: t.clone() for n, t in own.items() if n not in buffers}, buffers=buffers)
    for layout in LAYOUTS:
        if layout.fits(tensors):
            return from_bayesian_layers(tensors, layout, buffers_among(tensors))
    message = unknown_layout(tensors)
    raise InvalidInputError(message)


def _swag(tensors: Mapping[str, Tensor], pattern: re.Pattern[str], factor: str, scale: float) -> Posterior:
    parts: dict[str, dict[str, Tensor]] = {"mean": {}, "sq_mean": {}, factor: {}}
    for name, tensor in tensors.items():
        match = pattern.match(name)
        if match is not None and match["part"] in parts:
            prefix = match.groupdict().get("prefix") or ""
            parts[match["part"]][prefix + match["name"]] = tensor
    # Running means of normalization layers have the name of a SWAG mean, but no corresponding mean square.
    mean = {name: tensor for name, tensor in parts["mean"].items() if name in parts["sq_mean"]}
    missing = sorted(parts["sq_mean"].keys() - mean.keys())
    if missing or (parts[factor] and parts[factor].keys() != mean.keys()):
        incomplete = missing or sorted(mean.keys() ^ parts[factor].keys())
        message = f"expected all SWAG statistics of each parameter, got incomplete ones of {incomplete}"
        raise InvalidInputError(message)
    buffers = {
        name.removeprefix("base.").removeprefix("core_model."): tensor
        for name, tensor in buffers_among(tensors).items()
        if name not in {"n_models", "num_avgd_models"} and not _is_moment(pattern.match(name), mean)
    }
    return from_swag_moments(
        mean, parts["sq_mean"], parts[factor], scale=scale, least_variance=_LEAST_VARIANCE, buffers=buffers
    )


def _is_moment(match: re.Match[str] | None, mean: Mapping[str, Tensor]) -> bool:
    """Return whether a matched name is that of a SWAG statistic, not of a running mean."""
    return match is not None and (match.groupdict().get("prefix") or "") + match["name"] in mean


def load_samples(path: Path | str, *, model: nn.Module | None = None, prefix: str = "") -> SamplesPosterior:
    """Read posterior samples of another program from a file with one array per parameter.

    Arrays have the shape ``[draws, *s]``, or with a model also ``[chains, draws, *s]``.

    Args:
        path: NumPy (``.npz``) or safetensors file. No code in it is executed.
        model: Network that defines names and shapes of the parameters. Its values are used for parameters and buffers
            that are not in the file. If None, every array has one leading axis.
        prefix: Prefix of the parameter names in the file, such as ``net.``. Other arrays are ignored.

    Returns:
        The samples, with the index of the chain of each.

    Raises:
        FileFormatError: If the file is missing, damaged, or contains Python objects.
        InvalidInputError: If the shapes of arrays do not agree, or do not fit the model.
    """
    arrays = {name: t for name, t in _arrays(Path(path)).items() if name.startswith(prefix)}
    own = {name.removeprefix(prefix): tensor for name, tensor in arrays.items() if tensor.is_floating_point()}
    if not own:
        message = f"{path}: expected floating-point arrays whose names start with {prefix!r}, got none"
        raise InvalidInputError(message)
    if model is None:
        return SamplesPosterior(own)
    parameters = {n: t.detach() for n, t in model.named_parameters()}
    unknown = sorted(own.keys() - parameters.keys())
    if unknown:
        message = f"{path}: expected parameters of the model ({sorted(parameters)[:8]}), got {unknown[:8]}"
        raise InvalidInputError(message)
    chains: int | None = None
    flat: dict[str, Tensor] = {}
    for name, tensor in own.items():
        lead = tensor.dim() - parameters[name].dim()
        if lead not in {1, 2} or tensor.shape[lead:] != parameters[name].shape:
            shape = tuple(parameters[name].shape)
            message = (
                f"{path}: `{name}` has shape {tuple(tensor.shape)}, expected {shape} after one or two leading axes"
            )
            raise InvalidInputError(message)
        chains = tensor.shape[0] if lead == 2 else chains
        flat[name] = tensor.flatten(0, lead - 1)
    count = len(next(iter(flat.values())))
    index = torch.zeros(count, dtype=torch.int64) if chains is None else torch.arange(count) // (count // chains)
    fixed = {name: tensor.clone() for name, tensor in parameters.items() if name not in own}
    buffers = copied(dict(model.named_buffers()))
    return SamplesPosterior(flat, chains=index, fixed=fixed, buffers=buffers)


def _arrays(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".npz":
        return read_tensors(path)[0]
    arrays = read_npz(path)
    other = sorted(name for name, array in arrays.items() if array.dtype.kind not in "biuf")
    if other:
        message = f"{path}: expected numeric arrays, got other dtypes for {shorten(other)}"
        raise FileFormatError(message)
    try:
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    except TypeError as error:  # for example for another byte order
        message = f"cannot read {path}: {error}. Expected an .npz file of numeric arrays"
        raise FileFormatError(message) from error
