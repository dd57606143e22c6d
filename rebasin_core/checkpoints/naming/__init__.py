"""Names of tensors in files, and rows that belong to the same token or class."""

from rebasin_core.checkpoints.naming.matching import match_names
from rebasin_core.checkpoints.naming.name_match import NameMatch
from rebasin_core.checkpoints.naming.policy import NamePolicy
from rebasin_core.checkpoints.naming.rows import SharedRows, layout_for, layout_of_shared, share_rows
from rebasin_core.checkpoints.naming.vocabulary import Vocabulary, read_labels, read_vocabulary

__all__ = [
    "NameMatch",
    "NamePolicy",
    "SharedRows",
    "Vocabulary",
    "layout_for",
    "layout_of_shared",
    "match_names",
    "read_labels",
    "read_vocabulary",
    "share_rows",
]
