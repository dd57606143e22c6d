"""Identification of this machine and its processes, by which others notice that a process was killed."""

from __future__ import annotations

import socket
from pathlib import Path

_PROCESSES = Path("/proc")
# Fields of /proc/PID/stat after the name of the program, which may contain spaces and parentheses.
_STATE, _START = 0, 19


def host_name() -> str:
    """Return the name of this machine, for messages."""
    return socket.gethostname()


def machine() -> str:
    """Return an identifier of this machine since it was started, and of the process numbers in this container.

    Returns:
        The identifier; empty if the system does not provide one.
    """
    try:
        boot = (_PROCESSES / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {(_PROCESSES / 'self/ns/pid').readlink()}"
    except (OSError, ValueError):
        return ""


def start_of(process: int) -> str | None:
    """Return the time when a process of this machine started.

    Args:
        process: Its number.

    Returns:
        The time in the unit of the system; None if there is no such process, or it has been killed.
    """
    try:
        text = (_PROCESSES / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    if len(fields) <= _START or fields[_STATE] in {"Z", "X"}:
        return None
    return fields[_START]
