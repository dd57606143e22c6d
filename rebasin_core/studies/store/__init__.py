"""Stores of results: artifacts addressed by everything that determines them."""

from rebasin_core.studies.store.artifact import Artifact, StoredFile
from rebasin_core.studies.store.session import Holder, Session
from rebasin_core.studies.store.store import Store

__all__ = ["Artifact", "Holder", "Session", "Store", "StoredFile"]
