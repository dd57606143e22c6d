"""Run files: options, parser with line numbers, and JSON schema."""

from rebasin_core.config.document import Document
from rebasin_core.config.reading import read_config
from rebasin_core.config.run import PosteriorSource, RunConfig
from rebasin_core.config.schema import run_schema, study_schema
from rebasin_core.config.study import Against, Cell, StudyConfig

__all__ = [
    "Against",
    "Cell",
    "Document",
    "PosteriorSource",
    "RunConfig",
    "StudyConfig",
    "read_config",
    "run_schema",
    "study_schema",
]
