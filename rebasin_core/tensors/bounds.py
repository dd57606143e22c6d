"""Limits on the content of untrusted files and documents.

Each limit is far above any expected use, and low enough that content beyond it is rejected without noticeable memory or
time.
"""

from __future__ import annotations

MAX_DEPTH = 64
"""Maximum nesting depth of a YAML or JSON document. A run file has about eight levels."""

MAX_NODES = 200_000
"""Maximum number of entries of a YAML document, with aliases expanded."""

MAX_YAML_BYTES = 8 * 2**20
"""Maximum size of a YAML document, in bytes; a run file has a few hundred."""

MAX_JSON_BYTES = 64 * 2**20
"""Maximum size of a JSON document (specification, curve or record), in bytes."""

MAX_DATA_BYTES = 16 * 2**30
"""Maximum size of a data file, and of the uncompressed content of a compressed file, in bytes."""

MAX_UNITS = 2**26
"""Maximum number of entries of a group's index: its units times those of its outer groups. Vocabularies have 2**18."""

MAX_LENGTH = 2**48
"""Maximum length of an axis."""

MAX_DIGITS = 15
"""Maximum number of digits of an integer in the text of an axis."""

MAX_FACTORS = 64
"""Maximum number of factors of an axis, including those of length one; an axis of attention heads has two or three."""

MAX_PARENTHESES = 32
"""Maximum nesting depth of parentheses in the text of an axis."""

MAX_CELLS = 100_000
"""Maximum number of cells of a tensor: the product of the numbers of concatenated parts of its axes."""

MAX_TRACED_NUMBERS = 2**28
"""Maximum number of elements of an input that is described on the command line: 1 GiB in float32."""

MAX_NAME_LENGTH = 100
"""Maximum length of a registered name, which is used in file names."""

MAX_CLASSES = 1000
"""Maximum number of classes that one hook of a plugin may return."""
