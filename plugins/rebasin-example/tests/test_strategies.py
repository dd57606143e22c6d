"""What this package registers is used by its name, with its options."""

from __future__ import annotations

import pytest
import torch
from rebasin_example import ConvNetArchitecture, RankMatcher
from rebasin_example.operators import DecayNet

import rebasin_core as rc
from rebasin_core.errors import ConfigError


def test_names_give_the_classes_of_this_package() -> None:
    assert rc.build("architecture", "conv_net", channels=4) == ConvNetArchitecture(channels=4)
    assert rc.Matcher.of("rank") == RankMatcher()


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="channels: expected a value greater than 0, got 0"):
        ConvNetArchitecture(channels=0)
    with pytest.raises(ConfigError, match="chanels: unknown option; did you mean 'channels'"):
        rc.build("architecture", "conv_net", chanels=4)


def test_options_are_the_widths_of_the_network() -> None:
    architecture = ConvNetArchitecture(channels=3, hidden=5)
    spec = architecture.spec(architecture.build((1, 8, 8), 10))
    assert {name: group.size for name, group in spec.groups.items()} == {"channels": 3, "hidden": 5}


def test_models_with_the_operator_are_traced_with_its_rule() -> None:
    spec = rc.build("spec", "traced").derive(DecayNet(width=6), torch.randn(2, 5, 3))
    assert [group.size for group in spec.groups.values()] == [6]
