"""Stores of results: artifacts addressed by everything that determines them."""

from rebasin_core.studies.store.artifact import Artifact, StoredFile
from rebasin_core.studies.store.garbage import Garbage, collect_garbage
from rebasin_core.studies.store.inspection import (
    DiskUsage,
    ListedArtifact,
    Usage,
    Verification,
    disk_usage,
    list_artifacts,
    verify_store,
)
from rebasin_core.studies.store.session import Holder, Session
from rebasin_core.studies.store.store import Store

__all__ = [
    "Artifact",
    "DiskUsage",
    "Garbage",
    "Holder",
    "ListedArtifact",
    "Session",
    "Store",
    "StoredFile",
    "Usage",
    "Verification",
    "collect_garbage",
    "disk_usage",
    "list_artifacts",
    "verify_store",
]
