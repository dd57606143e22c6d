"""Architectures of published, independently trained checkpoints, with the published names of their tensors.

Each function without arguments returns one network with random weights. Its state dict has the names and shapes of the
published files, so commands can read these files directly (run them in this folder)::

    rebasin align cifar10_resnet20A_zheng.npz cifar10_resnet20A_dansun_run1.npz -o aligned.safetensors \
        --model published:resnet20a -i 2,3,32,32

`families.py` lists the files, inputs and data of each. Networks of mean-field posteriors have the means only: their
outputs do not depend on the standard deviations.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise, starmap
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override


class Weights(nn.Module):
    """Parameters with given names and shapes; vectors are zero, and matrices normal with a variance of 1 / fan-in."""

    def __init__(self, fan_in: int = 128, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            values = torch.zeros(shape) if name.startswith("b_") else torch.randn(shape) / fan_in**0.5
            self.register_parameter(name, nn.Parameter(values))


class MeanLayer(nn.Module):
    """A linear or convolutional layer at the mean of a mean-field posterior, with other names of its parameters."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, weight: str, bias: str) -> None:
        super().__init__()
        self.names = weight, bias
        self.is_convolution = isinstance(layer, nn.Conv2d)
        self.register_parameter(weight, layer.weight)
        self.register_parameter(bias, layer.bias)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the layer, without padding."""
        weight, bias = (getattr(self, name) for name in self.names)
        apply = functional.conv2d if self.is_convolution else functional.linear
        output: Tensor = apply(inputs, weight, bias)
        return output


class FlatMLP(nn.Module):
    """An MLP on flattened images: linear layers with batch normalization and ReLU, in one sequence `net`."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs in pairwise(widths[:-1]):
            parts += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.net = nn.Sequential(*parts, nn.Linear(*widths[-2:]))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        output: Tensor = self.net(inputs.flatten(1))
        return output


class Block(nn.Module):
    """A residual block of a ResNet for CIFAR-10.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        shortcut: Where the number of channels differs, ``padded`` skips every other pixel and adds zero channels on
            both sides (option A), and ``projected`` is a convolution with batch normalization (option B).
    """

    def __init__(self, inputs: int, outputs: int, shortcut: Literal["padded", "projected"]) -> None:
        super().__init__()
        stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.num_padded = (outputs - inputs) // 2
        if shortcut == "projected" and outputs != inputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum of the shortcut and the branch, after the ReLU."""
        branch = self.bn2(self.conv2(self.bn1(self.conv1(inputs)).relu()))
        output: Tensor = (branch + self._shortcut(inputs)).relu()
        return output

    def _shortcut(self, inputs: Tensor) -> Tensor:
        if not self.num_padded:
            return inputs
        if "downsample" in self._modules:
            projected: Tensor = self.downsample(inputs)
            return projected
        return functional.pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, self.num_padded, self.num_padded))


class ResNet(nn.Module):
    """A ResNet for CIFAR-10 with widths 16, 32 and 64 (He et al., 2015, section 4.2).

    Args:
        depth: Number of layers, ``6 n + 2``.
        shortcut: Kind of the shortcuts between stages, as in `Block`.
        head: Name of the last layer.
    """

    def __init__(self, depth: int, shortcut: Literal["padded", "projected"], head: str) -> None:
        super().__init__()
        self.head = head
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        for stage, (inputs, outputs) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            later = [Block(outputs, outputs, shortcut) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(Block(inputs, outputs, shortcut), *later))
        self.add_module(head, nn.Linear(64, 10))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        stream = self.bn1(self.conv1(inputs)).relu()
        for stage in (1, 2, 3):
            stream = self.get_submodule(f"layer{stage}")(stream)
        output: Tensor = self.get_submodule(self.head)(stream.mean((2, 3)))
        return output


class ConvNet(nn.Module):
    """A small convolutional network for CIFAR-10 with dropout in its classifier."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs in pairwise((3, 16, 32, 64)):
            parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*parts[:-1], nn.AdaptiveAvgPool2d(4))
        dense = [nn.Dropout(), nn.Linear(1024, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 10)]
        self.classifier = nn.Sequential(nn.Flatten(), *dense)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        output: Tensor = self.classifier(self.features(inputs))
        return output


class GroupMLP(Weights):
    """An MLP on two concatenated embeddings of group elements, with one hidden layer and without biases."""

    def __init__(self, size: int) -> None:
        super().__init__(256, W_x=(size, 256), W_y=(size, 256), W=(512, 128), W_U=(128, size))

    @override
    def forward(self, elements: Tensor) -> Tensor:
        """Return the logits of the product of two elements, ``[N, 2]``."""
        first = self.W_x[elements[:, 0]]
        second = self.W_y[elements[:, 1]]
        hidden = (torch.cat([first, second], dim=1) @ self.W).relu()
        return hidden @ self.W_U


class SumMLP(nn.Module):
    """An MLP on two concatenated embeddings from one table, with one hidden layer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, 128)
        self.l1 = nn.Linear(256, 256)
        self.unembed = nn.Linear(256, size, bias=False)

    @override
    def forward(self, numbers: Tensor) -> Tensor:
        """Return the logits of the sum of two numbers, ``[N, 2]``."""
        embedded = torch.cat([self.embed(numbers[:, 0]), self.embed(numbers[:, 1])], dim=1)
        output: Tensor = self.unembed(self.l1(embedded).relu())
        return output


class TransformerBlock(nn.Module):
    """A transformer block without normalization, with causal attention, and the names of TransformerLens."""

    def __init__(self) -> None:
        super().__init__()
        maps = {f"W_{name}": (4, 128, 32) for name in "QKV"}
        biases = {f"b_{name}": (4, 32) for name in "QKV"}
        self.attn = Weights(**maps, W_O=(4, 32, 128), **biases, b_O=(128,))
        self.mlp = Weights(W_in=(128, 512), b_in=(512,), W_out=(512, 128), b_out=(128,))

    @override
    def forward(self, stream: Tensor) -> Tensor:
        """Return the residual stream after attention and MLP."""
        attention, mlp = self.attn, self.mlp
        maps = [(getattr(attention, f"W_{name}"), getattr(attention, f"b_{name}")) for name in "QKV"]
        query, key, value = [torch.einsum("btd,hdw->bhtw", stream, weight) + bias[:, None] for weight, bias in maps]
        length = stream.shape[1]
        later = torch.ones(length, length, device=stream.device).triu(1).bool()
        weights = (query @ key.mT / 32**0.5).masked_fill(later, -torch.inf).softmax(-1)
        stream = stream + torch.einsum("bhtw,hwd->btd", weights @ value, attention.W_O) + attention.b_O
        hidden = (stream @ mlp.W_in + mlp.b_in).relu()
        return stream + hidden @ mlp.W_out + mlp.b_out


class Transformer(nn.Module):
    """A transformer of one layer on three tokens, without normalization.

    Args:
        size: Number of classes; the vocabulary has one more token, the last of every input.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed, self.pos_embed = Weights(W_E=(size + 1, 128)), Weights(W_pos=(3, 128))
        self.blocks = nn.ModuleList([TransformerBlock()])
        self.unembed = Weights(W_U=(128, size), b_U=(size,))

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits at the last token."""
        stream = self.embed.W_E[tokens] + self.pos_embed.W_pos
        for block in self.blocks:
            stream = block(stream)
        return stream[:, -1] @ self.unembed.W_U + self.unembed.b_U


class PizzaBlock(nn.Module):
    """A transformer block without normalization, masks and attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Weights(W_K=(4, 32, 128), W_Q=(4, 32, 128), W_V=(4, 32, 128), W_O=(128, 128))
        self.mlp = Weights(W_in=(512, 128), b_in=(512,), W_out=(128, 512), b_out=(128,))

    @override
    def forward(self, stream: Tensor) -> Tensor:
        """Return the residual stream after attention and MLP."""
        attention, mlp = self.attn, self.mlp
        key, query, value = [torch.einsum("ihd,bpd->biph", getattr(attention, f"W_{name}"), stream) for name in "KQV"]
        mixed = (query @ key.mT / 32**0.5).softmax(-1) @ value
        attended = stream + mixed.transpose(1, 2).flatten(2) @ attention.W_O.mT
        hidden = (attended @ mlp.W_in.mT + mlp.b_in).relu()
        return attended + hidden @ mlp.W_out.mT + mlp.b_out


class PizzaTransformer(nn.Module):
    """A transformer of one layer on two numbers (Zhong et al., 2023), with attention coefficient 1."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed, self.pos_embed = Weights(W_E=(128, size)), Weights(W_pos=(2, 128))
        self.blocks = nn.ModuleList([PizzaBlock()])
        self.unembed = Weights(W_U=(128, size))

    @override
    def forward(self, numbers: Tensor) -> Tensor:
        """Return the logits of the sum of two numbers, ``[N, 2]``."""
        stream = self.embed.W_E.mT[numbers] + self.pos_embed.W_pos
        for block in self.blocks:
            stream = block(stream)
        return stream[:, -1] @ self.unembed.W_U


class ActorCritic(nn.Module):
    """Policy and value networks with tanh, and exploration whose variance depends on the state (gSDE)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.randn(64, 1) - 2)
        trunks = {name: nn.Sequential(*self._trunk()) for name in ("policy_net", "value_net")}
        self.mlp_extractor = nn.ModuleDict(trunks)
        self.action_net, self.value_net = nn.Linear(64, 1), nn.Linear(64, 1)

    @staticmethod
    def _trunk() -> list[nn.Module]:
        return [nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]

    @override
    def forward(self, observations: Tensor) -> Tensor:
        """Return the mean of the action, the variance of the action, and the value, ``[N, 3]``."""
        policy = self.mlp_extractor["policy_net"](observations)
        value = self.mlp_extractor["value_net"](observations)
        variance = policy.square() @ (2 * self.log_std).exp()
        return torch.cat([self.action_net(policy), variance, self.value_net(value)], dim=1)


class AtomicEnergies(nn.Module):
    """Energies of an iron and of a hydrogen atom from their symmetry functions, each by an MLP of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.H, self.Fe = self._network(), self._network()

    @staticmethod
    def _network() -> nn.Sequential:
        return nn.Sequential(nn.Linear(64, 15), nn.Sigmoid(), nn.Linear(15, 15), nn.Sigmoid(), nn.Linear(15, 1))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the energies in Hartree, ``[N, 2]``, of one iron and one hydrogen atom, ``[N, 2, 64]``."""
        return torch.cat([self.Fe(inputs[:, 0]), self.H(inputs[:, 1])], dim=1)


def mnist_mlp() -> nn.Module:
    """Return an MLP for MNIST without biases, of widths 400, 200 and 100."""
    parts: list[tuple[str, nn.Module]] = [("flat", nn.Flatten())]
    for layer, (inputs, outputs) in enumerate(pairwise((784, 400, 200, 100, 10)), start=1):
        parts += [(f"fc{layer}", nn.Linear(inputs, outputs, bias=False)), (f"relu{layer}", nn.ReLU())]
    return nn.Sequential(OrderedDict(parts[:-1]))


def mnist_mlp_bn() -> nn.Module:
    """Return an MLP for MNIST with batch normalization, of widths 200, 200 and 200."""
    return FlatMLP((784, 200, 200, 200, 10)).eval()


def mnist_cnn() -> nn.Module:
    """Return a convolutional network for MNIST."""
    blocks = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(1600, 10))


def convnet() -> nn.Module:
    """Return the small convolutional network for CIFAR-10."""
    return ConvNet().eval()


def resnet20a() -> nn.Module:
    """Return ResNet-20 for CIFAR-10 with zero-padded shortcuts."""
    return ResNet(20, "padded", "linear").eval()


def resnet32a() -> nn.Module:
    """Return ResNet-32 for CIFAR-10 with zero-padded shortcuts."""
    return ResNet(32, "padded", "linear").eval()


def resnet20b() -> nn.Module:
    """Return ResNet-20 for CIFAR-10 with convolutional shortcuts."""
    return ResNet(20, "projected", "fc").eval()


def _bayesian_cnn(channels: int, flat: int) -> nn.Module:
    convolutions = [nn.Conv2d(*widths, 3) for widths in pairwise((channels, 32, 64, 128))]
    dense = list(starmap(nn.Linear, pairwise((flat, 256, 128, 10))))
    parts: list[tuple[str, nn.Module]] = []
    for layer, convolution in enumerate(convolutions, start=1):
        parts.append((f"conv{layer}", MeanLayer(convolution, "weight_loc", "bias_loc")))
        parts += [(f"conv_relu{layer}", nn.ReLU()), (f"pool{layer}", nn.MaxPool2d(2))]
    parts.append(("flat", nn.Flatten()))
    for layer, linear in enumerate(dense, start=1):
        parts += [(f"fc{layer}", MeanLayer(linear, "weight_loc", "bias_loc")), (f"fc_relu{layer}", nn.ReLU())]
    return nn.Sequential(OrderedDict(parts[:-1]))


def cifar10_bayesian_cnn() -> nn.Module:
    """Return the mean of a mean-field posterior over convolutional networks for CIFAR-10."""
    return _bayesian_cnn(3, 512)


def mnist_bayesian_cnn() -> nn.Module:
    """Return the mean of a mean-field posterior over convolutional networks for MNIST."""
    return _bayesian_cnn(1, 128)


def lenet5() -> nn.Module:
    """Return the mean of a mean-field posterior over LeNet-5 with softplus, for MNIST images of 32 x 32 pixels."""
    parts: list[tuple[str, nn.Module]] = []
    for layer, widths in enumerate(((1, 6), (6, 16)), start=1):
        parts.append((f"conv{layer}", MeanLayer(nn.Conv2d(*widths, 5), "W_mu", "bias_mu")))
        parts += [(f"conv_softplus{layer}", nn.Softplus()), (f"pool{layer}", nn.MaxPool2d(2))]
    parts.append(("flat", nn.Flatten()))
    for layer, widths in enumerate(((400, 120), (120, 84), (84, 10)), start=1):
        parts.append((f"fc{layer}", MeanLayer(nn.Linear(*widths), "W_mu", "bias_mu")))
        parts.append((f"fc_softplus{layer}", nn.Softplus()))
    return nn.Sequential(OrderedDict(parts[:-1]))


def s5_mlp() -> nn.Module:
    """Return an MLP for products in the symmetric group S5."""
    return GroupMLP(120)


def d59_mlp() -> nn.Module:
    """Return an MLP for products in the dihedral group of 118 elements."""
    return GroupMLP(118)


def c59_mlp() -> nn.Module:
    """Return an MLP for sums modulo 59."""
    return SumMLP(59)


def c113_transformer() -> nn.Module:
    """Return a transformer for sums modulo 113."""
    return Transformer(113)


def d59_transformer() -> nn.Module:
    """Return a transformer for products in the dihedral group of 118 elements."""
    return Transformer(118)


def c59_pizza() -> nn.Module:
    """Return a transformer for sums modulo 59, without masks."""
    return PizzaTransformer(59)


def pendulum() -> nn.Module:
    """Return policy and value networks for the pendulum."""
    return ActorCritic()


def iron_hydrogen() -> nn.Module:
    """Return an interatomic potential of iron and hydrogen."""
    return AtomicEnergies()
