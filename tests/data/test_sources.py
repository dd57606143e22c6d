from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rebasin_core import Registry
from rebasin_core.data import CIFAR10Source, DigitsSource, Examples, FashionMNISTSource, MNISTSource, Target, UCISource
from rebasin_core.data import cifar10 as cifar10_module
from rebasin_core.data.files import RemoteFile
from rebasin_core.data.mnist import read_idx
from rebasin_core.errors import ConfigError, DataError, InvalidInputError, MissingDataError
from rebasin_core.testing.examples.registered import examples_of


def write_small(registry: Registry, name: str, folder: Path) -> None:
    examples_of(registry.get("dataset", name), folder)


def test_digits_are_those_of_scikit_learn() -> None:
    splits = DigitsSource().load()
    assert len(splits.train) == 1437
    assert len(splits.test) == 360
    assert splits.train.inputs.mean().abs().item() < 1e-6
    assert torch.bincount(splits.test.targets).min().item() >= 25


def test_idx_pixels_and_labels(tmp_path: Path, builtin_registry: Registry) -> None:
    write_small(builtin_registry, "mnist", tmp_path)
    raw = read_idx(tmp_path / "mnist/raw/train-images-idx3-ubyte.gz")
    splits = MNISTSource(root=tmp_path).load()
    assert raw.shape == (12, 28, 28)
    torch.testing.assert_close(splits.train.inputs[3, 0], (raw[3].float() / 255 - 0.1307) / 0.3081)
    assert len(splits.test) == 7


def test_pooled_images_are_averages_of_squares(tmp_path: Path, builtin_registry: Registry) -> None:
    for name in ("mnist", "cifar10"):
        write_small(builtin_registry, name, tmp_path)
    for full, pooled in (
        (MNISTSource(root=tmp_path), MNISTSource(root=tmp_path, pool=4)),
        (CIFAR10Source(root=tmp_path), CIFAR10Source(root=tmp_path, pool=4)),
    ):
        pixels = full.load().train.inputs
        count, channels, size, _ = pixels.shape
        squares = pixels.reshape(count, channels, size // 4, 4, size // 4, 4).mean((3, 5))
        torch.testing.assert_close(pooled.load().train.inputs, squares, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("source", "pool", "size"), [(MNISTSource, 3, 28), (CIFAR10Source, 5, 32)])
def test_squares_must_divide_the_image(source: type, pool: int, size: int) -> None:
    with pytest.raises(ConfigError, match=f"expected a divisor of {size}"):
        source(pool=pool)


def test_unpacked_files_and_other_folders(tmp_path: Path, builtin_registry: Registry) -> None:
    write_small(builtin_registry, "mnist", tmp_path / "a")
    target = tmp_path / "b" / "MNIST" / "raw"
    target.mkdir(parents=True)
    for path in (tmp_path / "a/mnist/raw").iterdir():
        (target / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    one, other = MNISTSource(root=tmp_path / "a").load(), MNISTSource(root=tmp_path / "b").load()
    assert torch.equal(one.train.inputs, other.train.inputs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an idx file .* got an empty file"),
        (b"\0\0\x08\x01\0\0\0\x05abc", r"is damaged: expected 5 bytes for shape \(5,\), got 3"),
        (b"\0\0\x0d\x01\0\0\0\x01abcd", "expected an idx file of unsigned bytes .* starts with 00 00 0d 01"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "x")


def test_damaged_gzip(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a" * 1000)[:15])
    with pytest.raises(DataError, match="is damaged"):
        read_idx(tmp_path / "x.gz")


def test_cifar10_channels_come_first(tmp_path: Path, builtin_registry: Registry) -> None:
    write_small(builtin_registry, "cifar10", tmp_path)
    splits = CIFAR10Source(root=tmp_path).load()
    raw = np.frombuffer((tmp_path / "cifar-10-batches-bin/test_batch.bin").read_bytes(), np.uint8)
    red = (raw[1:1025].reshape(32, 32).astype(np.float32) / 255 - 0.4914) / 0.2470
    torch.testing.assert_close(splits.test.inputs[0, 0], torch.from_numpy(red))
    assert splits.train.targets.tolist() == [0, 4, 9] * 5


def test_uci_splits_and_scales(tmp_path: Path, builtin_registry: Registry) -> None:
    write_small(builtin_registry, "uci", tmp_path)
    splits = UCISource(dataset="tiny", root=tmp_path, split=1).load()
    assert (len(splits.train), len(splits.test)) == (17, 3)
    torch.testing.assert_close(splits.train.inputs.std(0, correction=0), torch.ones(4))
    torch.testing.assert_close(splits.train.targets.mean().item(), 0.0, atol=1e-6, rtol=0)
    with np.load(tmp_path / "tiny.npz") as archive:
        y, test = archive["y"], archive["test_index"][1]
    (scale,) = splits.target.scale
    original = scale * splits.test.targets[:, 0].double().numpy() + np.delete(y, test).mean()
    np.testing.assert_allclose(original, y[np.sort(test)], rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="split 5"):
        UCISource(dataset="tiny", root=tmp_path, split=5).load()
    with pytest.raises(ConfigError, match="split: expected a value greater than or equal to 0, got -1"):
        UCISource(dataset="tiny", split=-1)


def test_the_scale_of_a_target_fits_its_dimensions() -> None:
    assert Target("regression", 2, (1.0, 0.5)).scale == (1.0, 0.5)
    for scale in ((1.0,), (1.0, 0.0), (1.0, float("nan")), (float("inf"), 1.0)):
        with pytest.raises(DataError, match="expected `scale` to have 2 positive numbers, got"):
            Target("regression", 2, scale)
    with pytest.raises(DataError, match=r"to have none for class labels, got \(1.0,\)"):
        Target("classification", 1, (1.0,))


def test_uci_text_layout_gives_the_same(tmp_path: Path, builtin_registry: Registry) -> None:
    write_small(builtin_registry, "uci", tmp_path)
    with np.load(tmp_path / "tiny.npz") as archive:
        x, y, test = archive["x"], archive["y"], archive["test_index"]
    folder = tmp_path / "UCI_Datasets" / "text" / "data"
    folder.mkdir(parents=True)
    np.savetxt(folder / "data.txt", np.hstack([x, y[:, None]]), fmt="%.18g")
    np.savetxt(folder / "index_features.txt", np.arange(4))
    np.savetxt(folder / "index_target.txt", [4])
    np.savetxt(folder / "index_test_1.txt", test[1])
    one = UCISource(dataset="tiny", root=tmp_path, split=1).load()
    other = UCISource(dataset="text", root=tmp_path, split=1).load()
    torch.testing.assert_close(one.test.inputs, other.test.inputs)
    torch.testing.assert_close(one.test.targets, other.test.targets)


def test_the_error_for_a_missing_folder_lists_the_candidates(tmp_path: Path) -> None:
    for source in (MNISTSource(root=tmp_path), FashionMNISTSource(root=tmp_path), CIFAR10Source(root=tmp_path)):
        with pytest.raises(MissingDataError, match=f"looked for {tmp_path}"):
            source.load()


def test_download_is_verified(tmp_path: Path, builtin_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download is replaced by a local folder, with verification as in pooch."""
    publisher = tmp_path / "publisher"
    write_small(builtin_registry, "mnist", publisher)
    files = publisher / "mnist" / "raw"
    served = {path.name: path.read_bytes() for path in files.iterdir()}

    def fetch(url: str, known_hash: str, path: Path, fname: str, **_: object) -> str:
        content = served[url.rsplit("/", 1)[1]]
        if f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}" != known_hash:
            message = f"MD5 hash of downloaded file ({fname}) does not match the known hash"
            raise ValueError(message)
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / fname).write_bytes(content)
        return str(Path(path) / fname)

    monkeypatch.setattr("pooch.retrieve", fetch)
    sums = [hashlib.md5(served[name], usedforsecurity=False).hexdigest() for name in sorted(served, reverse=True)]
    train_images, train_labels, test_images, test_labels = sums[1], sums[0], sums[3], sums[2]
    published = replace(MNISTSource.publication, md5=(train_images, train_labels, test_images, test_labels))
    monkeypatch.setattr(MNISTSource, "publication", published)
    assert len(MNISTSource(root=tmp_path / "a", download=True).load().train) == 12
    wrong = replace(published, md5=("0" * 32, train_labels, test_images, test_labels))
    monkeypatch.setattr(MNISTSource, "publication", wrong)
    with pytest.raises(MissingDataError, match="does not match the known hash"):
        MNISTSource(root=tmp_path / "b", download=True).load()


def test_extraction_ignores_directories_in_member_names(
    tmp_path: Path, builtin_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small(builtin_registry, "cifar10", tmp_path / "publisher")
    archive = tmp_path / "c.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        for path in (tmp_path / "publisher/cifar-10-batches-bin").iterdir():
            out.add(path, f"../../escaped/{path.name}")
        out.addfile(tarfile.TarInfo("../../evil"), io.BytesIO(b""))
    remote = RemoteFile("c.tar.gz", archive.as_uri(), "")
    monkeypatch.setattr(cifar10_module, "_ARCHIVE", remote)
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: str(archive))
    root = tmp_path / "x" / "y"
    root.mkdir(parents=True)
    assert len(CIFAR10Source(root=root, download=True).load().train) == 15
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "evil").exists()


def test_batches_are_shuffled_by_seed_and_epoch() -> None:
    data = Examples(torch.arange(10.0)[:, None], torch.arange(10))

    def order(seed: int, epoch: int) -> list[int]:
        batches = data.batches(3, shuffle_seed=seed)
        batches.set_epoch(epoch)
        return [int(t) for _, targets in batches for t in targets]

    assert order(1, 0) == order(1, 0)
    assert sorted(order(1, 0)) == list(range(10))
    assert len({tuple(order(s, e)) for s in range(3) for e in range(3)}) == 9
    assert len(data.batches(3)) == 4
    with pytest.raises(InvalidInputError, match="one target per input, got 3 targets and 2 inputs"):
        Examples(torch.zeros(2), torch.zeros(3))
