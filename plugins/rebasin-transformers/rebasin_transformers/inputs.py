"""Small random inputs of a model, from its configuration and the signature of its forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_BATCH = 2
_NUM_TOKENS = 8
_IMAGE_SIZE = 64
_NUM_FRAMES = 128
_NUM_SOUND_VALUES = 4000


def example_inputs(module: PreTrainedModel) -> dict[str, Tensor]:
    """Return random inputs of a model.

    Args:
        module: The model.

    Returns:
        Inputs by name: tokens that are not special, images, or sound, and tokens of the decoder.

    Raises:
        InvalidInputError: If the model has other inputs.
    """
    accepted = inspect.signature(type(module).forward).parameters
    config = module.config
    generator = torch.Generator().manual_seed(0)
    makers = {
        "input_ids": _tokens,
        "pixel_values": _image,
        "input_features": _features,
        "input_values": _sound,
    }
    main = module.main_input_name
    names = {main} | ({"input_ids", "pixel_values"} if _is_dual_encoder(config) else set())
    found = {name: make(config, generator) for name, make in makers.items() if name in names and name in accepted}
    if main not in found:
        message = (
            f"{type(module).__name__} needs {main!r}, for which there are no example inputs; give them as "
            "`named_inputs` of the source"
        )
        raise InvalidInputError(message)
    if config.is_encoder_decoder and "decoder_input_ids" in accepted:
        found["decoder_input_ids"] = _tokens(config, generator)
    return found


def _is_dual_encoder(config: PreTrainedConfig) -> bool:
    """Return whether a model encodes texts and images separately, as CLIP; other models of images read their tokens."""
    return "projection_dim" in config.to_dict() and {"text_config", "vision_config"} <= config.sub_configs.keys()


def _tokens(config: PreTrainedConfig, generator: torch.Generator) -> Tensor:
    """Return random tokens, of which only the last is special: ``eos``, if the model has it."""
    text = config.get_text_config()
    special = {number for number in _special(config.to_dict()) if 0 <= number < text.vocab_size}
    longest = getattr(text, "max_position_embeddings", None)
    length = min(_NUM_TOKENS, longest if isinstance(longest, int) and longest > 0 else _NUM_TOKENS)
    plain = torch.tensor([number for number in range(text.vocab_size) if number not in special] or [0])
    found = plain[torch.randint(len(plain), (_BATCH, length), generator=generator)]
    last = getattr(text, "eos_token_id", None)
    if isinstance(last, int) and last in special:
        found[:, -1] = last
    return found


def _special(document: object) -> Iterable[int]:
    """Yield the special tokens of a configuration: padding, image and sound tokens, and others."""
    if isinstance(document, Mapping):
        for name, value in document.items():
            if str(name).endswith(("_token_id", "_token_index")):
                yield from (number for number in (value if isinstance(value, list) else [value]) if _is_number(number))
            else:
                yield from _special(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _image(config: PreTrainedConfig, generator: torch.Generator) -> Tensor:
    vision = _of_images(config)
    size: Any = getattr(vision, "image_size", None) or _IMAGE_SIZE
    if isinstance(size, Mapping):
        size = [size["height"], size["width"]]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = getattr(vision, "num_channels", None) or 3
    return torch.randn(_BATCH, channels, height, width, generator=generator)


def _of_images(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the part of a configuration that describes images."""
    for name in ("vision_config", "encoder", "image_encoder"):
        part = getattr(config, name, None)
        if part is not None and hasattr(part, "to_dict"):
            found: PreTrainedConfig = part
            return found
    return config


def _features(config: PreTrainedConfig, generator: torch.Generator) -> Tensor:
    """Return a random spectrogram; Whisper needs two frames for each position."""
    positions = getattr(config, "max_source_positions", None)
    bands = getattr(config, "num_mel_bins", None) or getattr(config, "feature_size", None) or 80
    return torch.randn(_BATCH, bands, 2 * positions if positions else _NUM_FRAMES, generator=generator)


def _sound(config: PreTrainedConfig, generator: torch.Generator) -> Tensor:
    del config
    return torch.randn(_BATCH, _NUM_SOUND_VALUES, generator=generator)
