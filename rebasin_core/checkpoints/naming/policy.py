"""Options for the names of tensors in files."""

from __future__ import annotations

from typing import Literal, final

from rebasin_core.strategy import Options


@final
class NamePolicy(Options):
    """Rules for the names of a file's tensors that differ from those of the network.

    Examples:
        >>> NamePolicy(mode="strict").extra_tensors
        'error'
    """

    mode: Literal["lenient", "strict"] = "lenient"
    """``lenient`` accepts a common prefix (``module.``, ``model.``, ...) and older spellings of names; ``strict``
    requires the names of the network, or second names of tied weights, after ``prefix``."""

    prefix: str | None = None
    """Prefix of the names in files with several networks, such as ``student.``; found if None. It does not apply to
    files without such names, unless no file has it."""

    missing: Literal["error", "skip"] = "error"
    """Parameters and saved buffers of the network that the file does not contain. ``skip`` aligns without them."""

    extra: Literal["keep", "skip", "error"] | None = None
    """Tensors of the file that the network does not have: ``keep`` copies them to the output, unchanged; ``skip``
    omits them. If None, ``keep`` for lenient and ``error`` for strict names. Copied tensors are not permuted, so a head
    on top of the network must be part of the network."""

    resized: Literal["keep", "error"] = "error"
    """Tensors with the network's number of dimensions but other lengths, such as embeddings of another vocabulary."""

    @property
    def extra_tensors(self) -> Literal["keep", "skip", "error"]:
        """The rule for extra tensors, never None."""
        return self.extra or ("keep" if self.mode == "lenient" else "error")
