from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch import nn

from rebasin_core import Task, as_posterior, barrier, build, match
from rebasin_core.architectures import CifarResNetArchitecture, MLPArchitecture
from rebasin_core.errors import InvalidInputError, UnknownNameError
from rebasin_core.tensors.modules import copied


def test_conversion_to_posteriors() -> None:
    model = nn.BatchNorm1d(3)
    from_module, from_mapping = as_posterior(model), as_posterior(model.state_dict())
    assert set(from_module.mean) == {"weight", "bias"}
    assert set(from_module.buffers) == {"running_mean", "running_var", "num_batches_tracked"}
    # In a mapping, buffers of normalizations are recognized by name and type.
    assert set(from_mapping.buffers) == set(from_module.buffers)
    assert as_posterior(from_module) is from_module
    with pytest.raises(InvalidInputError, match=r"cannot read a posterior from builtins\.int; expected a Posterior"):
        as_posterior(3)


def test_a_posterior_made_from_a_module_is_a_copy() -> None:
    model = nn.Linear(2, 2)
    posterior = as_posterior(model)
    before = posterior.mean["weight"]
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(posterior.mean["weight"], before)


def test_single_networks_use_the_pointwise_estimator() -> None:
    model = nn.Linear(2, 3)
    data = [(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))]
    assert barrier(model, model, Task(model, data)).stderr == (0.0,) * 25


def test_modules_are_matched_and_permuted() -> None:
    architecture = MLPArchitecture(hidden=[6, 5])
    first, second = (architecture.build((4,), 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    result = match(first, second, architecture.spec(first), matcher="weight")
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(result.apply(second)(x), second(x))


def test_unknown_families_and_names() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'matcher'"):
        build("matchers", name="weight")
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        build("dataset", name="digit")


def test_matching_does_not_copy_all_buffers_for_every_tensor() -> None:
    architecture = CifarResNetArchitecture(depth=8)
    first = architecture.build((3, 32, 32), 10, generator=torch.Generator().manual_seed(1))
    second = architecture.build((3, 32, 32), 10, generator=torch.Generator().manual_seed(2))
    spec = architecture.spec(first)
    assert len(spec.layout.moved) > 30
    with patch("rebasin_core.posteriors.attached.copied", wraps=copied) as copies:
        match(first, second, spec, matcher="weight")
    assert copies.call_count < 20
