"""Stores on every kind of file system: local folders, the memory of fsspec, and a server of the S3 protocol."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebasin_core.studies.store import Store


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The local cache of remote stores."""
    monkeypatch.setenv("REBASIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of a local server that implements the S3 protocol."""
    for package in ("s3fs", "flask", "flask_cors"):
        pytest.importorskip(package, reason=f"the S3 tests need the package {package}")
    moto = pytest.importorskip("moto.moto_server.threaded_moto_server", reason="the S3 tests need the package moto")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_address(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a folder in a new bucket."""
    s3fs = pytest.importorskip("s3fs", reason="the S3 tests need the package s3fs")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{secrets.token_hex(8)}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/folder/store"


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, cache: Path) -> str:
    """The address of a store that does not exist."""
    assert not cache.exists()
    match request.param:
        case "folder":
            return str(tmp_path / "store")
        case "file":
            return f"file://{tmp_path / 'store'}"
        case "memory":
            return f"memory://{secrets.token_hex(8)}/store"
        case _:
            return str(request.getfixturevalue("s3_address"))


@pytest.fixture
def store(address: str) -> Store:
    return Store.open(address)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights" * 100)
    return path
