"""Convolutional building blocks; the expected groups were derived by hand."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from tests.specs.tracing.graphs import Graph, Net, axes, expect, parameter, sizes, traced

IMAGE = torch.randn(2, 3, 8, 8)


def test_flattening_keeps_positions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    expect(model, IMAGE, **{"0": "units.0, 3, 3, 3", "3": "2, units.0*36"})


def test_one_and_three_dimensions_and_transposes() -> None:
    line = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(4, 6, 3), nn.Flatten(), nn.Linear(48, 2))
    expect(line, torch.randn(2, 3, 8), **{"0": "units.0, 3, 3", "1": "units.0, units.1, 3", "3": "2, units.1*8"})
    cube = nn.Sequential(nn.Conv3d(1, 4, 2), nn.ConvTranspose3d(4, 5, 2), nn.Flatten(), nn.Linear(135, 2))
    expect(cube, torch.randn(2, 1, 3, 3, 3), **{"1": "units.0, units.1, 2, 2, 2", "3": "2, units.1*27"})


def test_grouped_convolution_permutes_groups_and_channels_within_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(216, 2))
    spec = expect(
        model,
        IMAGE,
        **{
            "0": "units.0*units.0.inner@units.0, 3, 1, 1",
            "2": "units.0*units.2.inner@units.0, units.0.inner@units.0, 3, 3",
            "4": "2, units.0*units.2.inner@units.0*36",
        },
    )
    assert sizes(spec) == {"units.0": 2, "units.0.inner": 4, "units.2.inner": 3}


def test_grouped_transposed_convolution() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(48, 2))
    found = axes(traced(model, torch.randn(2, 3, 8)))
    assert found["1.weight"] == "units.0*units.0.inner@units.0, units.1.inner@units.0, 3"
    assert found["1.bias"] == "units.0*units.1.inner@units.0"


def test_groups_of_input_channels_are_fixed_but_channels_within_each_are_permuted() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.Conv2d(6, 2, 6))
    expect(
        model,
        IMAGE,
        **{"0": "units.0 + units.0.2 + units.0.3, 1, 3, 3", "2": "2, units.0 + units.0.2 + units.0.3, 6, 6"},
    )


def test_depthwise_convolution_with_a_multiplier() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 6))
    expect(
        model,
        IMAGE,
        **{
            "0": "units.0, 3, 1, 1",
            "1": "units.0*units.1.inner@units.0, 1, 3, 3",
            "3": "2, units.0*units.1.inner@units.0, 6, 6",
        },
    )


def test_channel_shuffle_between_grouped_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 12, 1), nn.Conv2d(12, 18, 1, groups=3), nn.ChannelShuffle(3), nn.Conv2d(18, 12, 3, groups=3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2),
    )  # fmt: skip
    spec = expect(
        model,
        IMAGE,
        **{
            "1": "units.0*units.1*units.1.inner@units.0, units.0.inner@units.0, 1, 1",
            "3": "units.1*units.3.inner@units.1, units.1.inner@units.0*units.0, 3, 3",
            "6": "2, units.1*units.3.inner@units.1",
        },
    )
    assert sizes(spec) == {"units.0": 3, "units.0.inner": 4, "units.1": 3, "units.1.inner": 2, "units.3.inner": 4}


def test_concatenation() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        early = net.a(x).relu()
        late: Tensor = net.last(torch.cat([early, net.b(early).relu()], 1).mean((2, 3)))
        return late

    model = Graph(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 5, 3, padding=1), last=nn.Linear(9, 2))
    expect(model, IMAGE, a="a, 3, 3, 3", b="b, a, 3, 3", last="2, a + b")


def test_unet_skip() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        skip = net.a(x).relu()
        up = net.up(net.b(functional.max_pool2d(skip, 2)).relu())
        return net.last(torch.cat([skip, up], 1))

    model = Graph(
        forward,
        a=nn.Conv2d(3, 4, 3, padding=1),
        b=nn.Conv2d(4, 6, 3, padding=1),
        up=nn.ConvTranspose2d(6, 5, 2, stride=2),
        last=nn.Conv2d(9, 2, 1),
    )
    expect(model, IMAGE, b="b, a, 3, 3", up="b, up, 2, 2", last="2, a + up, 1, 1")


def test_shortcut_padded_with_zeros() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        h = net.stem(x)
        padded = functional.pad(h, (0, 0, 0, 0, 2, 3))
        return net.last((padded + net.a(h)).relu().mean((2, 3)))

    model = Graph(forward, stem=nn.Conv2d(3, 4, 3), a=nn.Conv2d(4, 9, 3, padding=1), last=nn.Linear(9, 2))
    expect(model, IMAGE, stem="stem, 3, 3, 3", a="a + stem + a.2, stem, 3, 3", last="2, a + stem + a.2")


def test_normalizations_with_statistics() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.GroupNorm(3, 6), nn.Conv2d(6, 4, 1),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.Flatten(1), nn.Linear(144, 5), nn.LayerNorm(5),
        nn.RMSNorm(5), nn.Linear(5, 2),
    )  # fmt: skip
    spec = expect(
        model,
        IMAGE,
        **{
            "1": "units.0",
            "1_running_mean": "units.0",
            "1_running_var": "units.0",
            "3": "units.3*units.3.inner@units.3, units.0, 1, 1",
            "4": "units.3*units.3.inner@units.3",
            "6_running_var": "units.5",
            "8": "units.8, units.5*36",
            "9": "units.8",
            "10": "units.8",
        },
    )
    assert sizes(spec) == {"units.0": 6, "units.3": 3, "units.3.inner": 2, "units.5": 4, "units.8": 5}


class FilterResponseNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta, self.tau = (parameter(1, channels, 1, 1) for _ in range(3))

    @override
    def forward(self, x: Tensor) -> Tensor:
        power = x.square().mean((2, 3), keepdim=True)
        return torch.max(self.gamma * x * torch.rsqrt(power + 1e-6) + self.beta, self.tau)


def test_filter_response_norm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), FilterResponseNorm(4), nn.Conv2d(4, 2, 6))
    expect(model, IMAGE, **{"1_tau": "1, units.0, 1, 1", "1_gamma": "1, units.0, 1, 1", "2": "2, units.0, 6, 6"})


def test_squeeze_and_excite() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        h = net.stem(x)
        gate = net.excite(net.squeeze(h.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return net.last((h * gate).mean((2, 3)))

    model = Graph(
        forward,
        stem=nn.Conv2d(3, 6, 3),
        squeeze=nn.Conv2d(6, 2, 1),
        excite=nn.Conv2d(2, 6, 1),
        last=nn.Linear(6, 2),
    )
    expect(model, IMAGE, squeeze="squeeze, stem, 1, 1", excite="stem, squeeze, 1, 1", last="2, stem")


def test_pixel_shuffle_permutes_only_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.PixelShuffle(2), nn.Conv2d(3, 2, 3))
    expect(model, IMAGE, **{"0": "units.0*4, 3, 3, 3", "2": "2, units.0, 3, 3"})


def test_a_kernel_that_covers_the_whole_map_is_a_dense_layer() -> None:
    def forward(net: Net, x: Tensor) -> Net:
        tokens = net.mix(x)[:, None, :, None]
        return net.last(net.conv(tokens).flatten(1))

    model = Graph(forward, mix=nn.Linear(3, 6), conv=nn.Conv2d(1, 4, (6, 1)), last=nn.Linear(4, 2))
    expect(model, torch.randn(2, 3), mix="mix, 3", conv="conv, 1, mix, 1", last="2, conv")


def test_groupings_without_a_common_refinement_are_fixed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.GroupNorm(4, 12), nn.Conv2d(12, 12, 1, groups=6), nn.Conv2d(12, 2, 8))
    spec = traced(model, IMAGE)
    assert "units.0" not in axes(spec)["0.weight"]
    frozen = next(axis for axis in spec.coverage.frozen if axis.tensor == "0.weight" and axis.dimension == 0)
    assert "group" in str(frozen)


def test_a_model_in_training_mode_is_traced_in_evaluation_mode_and_not_changed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 6)).train()
    model[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    traced(model, IMAGE)
    assert model.training
    assert not model[0].training
    assert model[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
