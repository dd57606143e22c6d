"""Messages over pipes: a length of eight bytes, then the content."""

from __future__ import annotations

import os
import struct
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTH = struct.Struct(">Q")
_CHECK_SECONDS = 0.5


def send(pipe: int, content: bytes) -> None:
    """Write a message.

    Args:
        pipe: File descriptor.
        content: The message.

    Raises:
        BrokenPipeError: If no process reads the pipe.
    """
    view = memoryview(_LENGTH.pack(len(content)) + content)
    while view:
        view = view[os.write(pipe, view) :]


def receive(pipe: int, is_alive: Callable[[], bool]) -> bytes | None:
    """Read a message.

    Args:
        pipe: File descriptor.
        is_alive: Whether the process on the other side runs. It is called while no data arrive: a pipe remains open if
            that process has forked another one before it ended.

    Returns:
        The message; None if the pipe is closed before the message is complete.
    """
    header = _read(pipe, _LENGTH.size, is_alive)
    return None if header is None else _read(pipe, _LENGTH.unpack(header)[0], is_alive)


def _read(pipe: int, size: int, is_alive: Callable[[], bool]) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        if not wait([pipe], _CHECK_SECONDS):
            if is_alive():
                continue
            return None
        part = os.read(pipe, min(size - len(parts), 2**20))
        if not part:
            return None
        parts += part
    return bytes(parts)
