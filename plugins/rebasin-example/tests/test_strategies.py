"""Strategies of this package by name and with options."""

from __future__ import annotations

import pytest
import torch
from rebasin_example import ConvNetArchitecture, RankMatcher
from rebasin_example.operators import DecayNet

import rebasin_core as rc
from rebasin_core.errors import ConfigError


def test_registered_names() -> None:
    assert rc.build("architecture", "conv_net", channels=4) == ConvNetArchitecture(channels=4)
    assert rc.Matcher.of("rank") == RankMatcher()


def test_invalid_options_raise() -> None:
    with pytest.raises(ConfigError, match="channels: expected a value greater than 0, got 0"):
        ConvNetArchitecture(channels=0)
    with pytest.raises(ConfigError, match="chanels: unknown option; did you mean 'channels'"):
        rc.build("architecture", "conv_net", chanels=4)


def test_options_determine_the_sizes_of_groups() -> None:
    architecture = ConvNetArchitecture(channels=3, hidden=5)
    spec = architecture.spec(architecture.build((1, 8, 8), 10))
    assert {name: group.size for name, group in spec.groups.items()} == {"channels": 3, "hidden": 5}


def test_model_with_the_operator_is_traced() -> None:
    spec = rc.build("spec", "traced").derive(DecayNet(width=6), torch.randn(2, 5, 3))
    assert [group.size for group in spec.groups.values()] == [6]
