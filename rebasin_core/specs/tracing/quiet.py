"""Silence PyTorch's tracers, whose long messages repeat the error that is raised."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def quietly() -> Generator[None]:
    """Disable fused attention layers, which hide operators, and PyTorch's log messages, warnings and stderr output.

    Yields:
        None. All settings are restored afterward. Output of the model on stdout is not suppressed.
    """
    import torch.export._trace  # ruff: ignore[import-outside-top-level] - half a second; its loggers exist after it
    import torch.fx.experimental.symbolic_shapes  # ruff: ignore[import-outside-top-level,unused-import]

    fast = torch.backends.mha.get_fastpath_enabled()
    loggers = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger)
    ]
    before = [logger.disabled for logger in loggers]
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # about PyTorch's internals, not about the model
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
        torch.backends.mha.set_fastpath_enabled(fast)
