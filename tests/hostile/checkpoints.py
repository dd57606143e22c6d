"""Checkpoint files of every format, their mutations, and hostile pickles."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from typing_extensions import override

from rebasin_core import merge_lora, open_checkpoint
from rebasin_core.errors import RebasinError
from rebasin_core.testing.examples.checkpoints import CHECKPOINTS
from tests.hostile.mutations import Random, mutated_bytes, mutated_json, mutated_value

EXECUTED = "executed by a pickle"
_MAX_MESSAGE = 4000
_MAX_READ_BYTES = 2**20
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."


class Hostile:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    @override
    def __reduce__(self) -> Any:
        return self.call


def _nested(depth: int) -> bytes:
    return b"\x80\x02" + b"(" * depth + b"N" + b"l" * depth + b"."


def _storage(numel: int, kind: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    """Return the opcodes of a tensor with a storage that claims a number of elements."""
    size = pickle.dumps(numel, 2)[2:-1]
    persistent = b"(X\x07\x00\x00\x00storage" + kind + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + size + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + b"K\x00" + size + b"\x85K\x01\x85\x89}tR"


def _named(value: bytes) -> bytes:
    return b"\x80\x02}X\x01\x00\x00\x00a" + value + b"s."


def pickles(folder: Path) -> Iterator[bytes]:
    """Yield pickles that execute code, allocate memory or confuse the machine of pickles."""
    marker = str(folder / EXECUTED)
    plain = False  # no gradient
    calls = [
        Hostile(os.mkdir, marker),
        Hostile(os.system, f"mkdir '{marker}'"),
        Hostile(eval, f"__import__('os').mkdir({marker!r})"),
        Hostile(exec, "x = 1"),
        Hostile(getattr, "x", "upper"),
        Hostile(__import__, "antigravity"),
        Hostile(open, marker, "w"),
        Hostile(torch.load, marker),
        Hostile(bytearray, 10**11),
        Hostile(torch.FloatTensor, 10**11),
        Hostile(torch.Tensor, 10**11),
        Hostile(torch.zeros, 10**11),
        Hostile(list, "a" * 9),
        Hostile(complex, "x"),
        Hostile(torch.Size, [10**12]),
        Hostile(torch.device, "cuda:99"),
        Hostile(setattr, "x", "y", 1),
        Hostile(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (10**12,), (1,), plain),
    ]
    for value in calls:
        for protocol in (2, 4):
            yield pickle.dumps({"a": value}, protocol)
    yield from (_nested(depth) for depth in (100, 100_000))
    yield from (_named(_storage(numel)) for numel in (0, 3, 10**9, 10**12, 2**63 - 1, 2**70, -1))
    yield _named(_storage(10**10, b"ctorch.storage\nUntypedStorage\n"))
    yield _named(_storage(3, b"cos\nsystem\n"))
    yield b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b"."  # a memo index that allocates in the C machine
    yield b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x."  # a text of 2**62 bytes
    yield b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N."  # a frame of 2**62 bytes
    yield b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"."  # an integer of 2**31 bytes
    yield b"\x80\x02R."
    yield b"\x80\x02}(X\x01\x00\x00\x00ah\x00u."  # a dictionary without a memo
    yield b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."  # a dictionary that contains itself
    yield (
        b"\x80\x02" + b"]q\x00" + b"".join(b"(" + b"h\x00" * 10 + b"lq\x00" for _ in range(40)) + b"."
    )  # 10**40 leaves
    yield b"I" + b"9" * 100_000 + b"\n."
    yield b""


def archive_with(content: bytes, *, name: str = "data.pkl", compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive as `torch.save` writes it, with another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(f"model/{name}", content)
        archive.writestr("model/byteorder", b"little")
        archive.writestr("model/data/0", bytes(12))
        archive.writestr("model/version", b"3\n")
    return buffer.getvalue()


def formats(folder: Path) -> dict[str, Path]:
    """Write small checkpoints of every format; return their paths."""
    found: dict[str, Path] = {}
    for reader, write in CHECKPOINTS.items():
        target = folder / reader.__name__
        target.mkdir()
        for example in write(target):
            path: Path = example[1]  # type: ignore[index] # a pair of a reader and a path
            found[f"{reader.__name__} {path.name}"] = path
    adapter = folder / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"0": 2}, "alpha_pattern": {}}
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    factors = {
        "base_model.model.0.lora_A.weight": torch.ones(2, 3),
        "base_model.model.0.lora_B.weight": torch.ones(4, 2),
    }
    save_file(factors, adapter / "adapter_model.safetensors")
    return {**found, "adapter": adapter}


def mutated(content: bytes, rng: Random) -> bytes:
    """Return another content of a file of any format."""
    if rng.random() < 0.4:
        return mutated_bytes(content, rng)
    if rng.random() < 0.15:
        return content[: rng.randrange(len(content) + 1)]
    if content.startswith(b"{"):
        return mutated_json(content, rng)
    if content.startswith(b"PK"):
        return _mutated_archive(content, rng)
    if content[8:9] == b"{":
        return _mutated_header(content, rng)
    return mutated_bytes(content, rng)


def _mutated_header(content: bytes, rng: Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = mutated_value(json.loads(content[8 : 8 + length]), rng)
    raw = json.dumps(header).encode("utf-8", "surrogatepass")
    claimed = rng.choice([len(raw)] * 8 + [0, 2**31, 2**60, 99_999_999])
    return claimed.to_bytes(8, "little") + raw + content[8 + length :]


def _mutated_archive(content: bytes, rng: Random) -> bytes:
    """Return an archive with a changed, missing, renamed, repeated or compressed entry, or a changed directory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    index = rng.randrange(len(members))
    name, member = members[index]
    match rng.randrange(6):
        case 0:
            members[index] = name, mutated_bytes(member, rng)
        case 1:
            del members[index]
        case 2:
            members[index] = (
                rng.choice(["../x", "/x", "a" * 300, "data.pkl", "x.npy", name[::-1], "a/constants.pkl"]),
                member,
            )
        case 3:
            members.append((f"{name.rpartition('/')[0]}/more.npy", member))
        case 4:
            members[index] = name, bytes(rng.choice([10, 10_000_000]))
        case _:
            at = content.rfind(b"PK\x01\x02") + rng.randrange(46)
            return content[:at] + rng.randbytes(rng.choice([1, 4])) + content[at + rng.choice([1, 4]) :]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice([zipfile.ZIP_STORED] * 3 + [zipfile.ZIP_DEFLATED])) as archive:
        for each, value in members:
            archive.writestr(each, value)
    return buffer.getvalue()


def hostile_contents(folder: Path) -> Iterator[bytes]:
    """Yield files with hostile pickles, in both formats of `torch.save` and as plain pickles, and bombs."""
    for content in pickles(folder):
        yield archive_with(content)
        yield _MAGIC + b"\x80\x02}." + content
        yield content
    yield archive_with(bytes(50_000_000), compression=zipfile.ZIP_DEFLATED)
    yield archive_with(bytes(300_000), name="0.npy", compression=zipfile.ZIP_DEFLATED)
    for length in (2, 99_999_999, 2**40, 2**63):
        yield length.to_bytes(8, "little") + b"{" + b" " * 1000
    many = {str(i): {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} for i in range(2000)}
    raw = json.dumps(many).encode()
    yield len(raw).to_bytes(8, "little") + raw + bytes(12)


def outcome(path: Path, base: Path | None = None) -> str:
    """Open a checkpoint and read its tensors; return the name of the error of this package, or ``read``.

    Args:
        path: The file or folder.
        base: Base model to merge an adapter into; None to open a network.

    Returns:
        The outcome; any other error propagates.
    """
    try:
        found = open_checkpoint(path) if base is None else merge_lora(base, path)
        for tensor in found.tensors.values():
            if tensor.numel() * tensor.element_size() <= _MAX_READ_BYTES:
                tensor.clone()
    except RebasinError as error:
        text = str(error)
        if not text or "\n" in text or len(text) > _MAX_MESSAGE:
            message = f"invalid message: {text[:200]!r}"
            raise AssertionError(message) from error
        return type(error).__name__
    return "read"


def mutated_copy(path: Path, target: Path, rng: Random) -> Path:
    """Write a copy of a checkpoint in which one file is changed; return its path."""
    if path.is_file():
        target.write_bytes(mutated(path.read_bytes(), rng))
        return target
    target.mkdir()
    files = sorted(path.iterdir())
    changed = rng.choice(files)
    for file in files:
        content = file.read_bytes()
        (target / file.name).write_bytes(mutated(content, rng) if file == changed else content)
    return target
