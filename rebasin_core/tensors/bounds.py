"""What a file or a document may ask for: every bound on content from outside, in one place.

Each is far above what any use of this package needs, and low enough that refusing costs no noticeable memory or time.
"""

from __future__ import annotations

MAX_DEPTH = 64
"""Levels of nesting in a YAML or JSON document. A run file has about eight."""

MAX_NODES = 200_000
"""Entries of a YAML document, each alias counted as the whole that it repeats."""

MAX_YAML_BYTES = 8 * 2**20
"""Bytes of a YAML document; a run file has a few hundred."""

MAX_JSON_BYTES = 64 * 2**20
"""Bytes of a JSON document: specifications, curves and records."""

MAX_DATA_BYTES = 16 * 2**30
"""Bytes of a data file, and of all that a compressed file expands to."""

MAX_UNITS = 2**26
"""Entries of the index of a group: its units, times those of the groups around it. Vocabularies have 2**18."""

MAX_LENGTH = 2**48
"""Positions of an axis."""

MAX_DIGITS = 15
"""Digits of a number in the text of an axis."""

MAX_FACTORS = 64
"""Factors of an axis, those of length one included; an axis of attention heads has two or three."""

MAX_PARENTHESES = 32
"""Parentheses within each other in the text of an axis."""

MAX_CELLS = 100_000
"""Cells of one tensor: products of the numbers of parts that its axes concatenate."""

MAX_TRACED_NUMBERS = 2**28
"""Numbers in an input that is described on the command line: one gibibyte in float32."""

MAX_NAME_LENGTH = 100
"""Characters of a registered name, which becomes part of file names."""

MAX_CLASSES = 1000
"""Classes that one hook of a plugin may return."""
