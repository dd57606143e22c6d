"""Mutations of valid content: bytes, JSON values, safetensors headers, YAML and command lines."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any, TypeAlias

Random: TypeAlias = random.Random
Mutation: TypeAlias = Callable[[bytes, Random], bytes]

DEEP = 3000
TEXTS = (
    "", "\0", "\ud800", "x" * 250, "../../x", "/dev/zero", "nan", "-1", "1e999", "[" * DEEP, "é", "a\nb", "*", "-",
    "(" * 50_000, "*".join("2" * 2000), "h*" * 80 + "h", "h@h", "h@(", "9" * 5000,
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, True, 10**12, 2**63, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf)


def nested(depth: int) -> Any:
    """Return nested lists."""
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def invalid(rng: Random) -> Any:
    """Return a value of another type, size or range."""
    return rng.choice([
        None, rng.choice(NUMBERS), rng.choice(NUMBERS), rng.choice(TEXTS), [], {}, [rng.choice(NUMBERS)] * 3,
        {"name": rng.choice(TEXTS)}, {"size": rng.choice(NUMBERS)}, nested(80), [[1.0], [2.0, 3.0]], [None] * 2000,
    ])  # fmt: skip


def entries_of(value: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Return all containers in a value, each with each of its keys or indices."""
    found = [] if found is None else found
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        entries_of(value[key], found)
    return found


def mutated_value(value: Any, rng: Random) -> Any:
    """Return a JSON value with one to three changes of its structure."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 2, 3])):
        every = entries_of(value)
        if not every or rng.random() < 0.03:
            return invalid(rng)
        container, key = rng.choice(every)
        kind = rng.randrange(5)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[rng.choice(["", "name", "kind", "size", str(key)[::-1], rng.choice(TEXTS)])] = container.pop(key)
        elif kind == 2:
            other, other_key = rng.choice(every)
            # The entry may have been deleted by an earlier change.
            container[key] = copy.deepcopy(other[other_key]) if _has(other, other_key) else invalid(rng)
        elif kind == 3 and isinstance(container, list):
            container.insert(key, invalid(rng))
        else:
            container[key] = invalid(rng)
    return value


def _has(container: Any, key: Any) -> bool:
    return key in container if isinstance(container, dict) else key < len(container)


def mutated_bytes(content: bytes, rng: Random) -> bytes:
    """Return bytes with a few changes: replacements, deletions, repetitions, truncation."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        start = rng.randrange(len(data) + 1) if rng.random() < 0.5 else rng.randrange(min(len(data), 64) + 1)
        length = rng.choice([1, 2, 4, 8, 64])
        match rng.randrange(6):
            case 0:
                del data[start:]
            case 1:
                del data[start : start + length]
            case 2:
                data[start:start] = data[start : start + length]
            case 3:
                data[start:start] = rng.randbytes(length)
            case 4:
                data[start : start + length] = rng.choice([b"\0", b"\xff", b"\x7f"]) * length
            case _ if start < len(data):
                data[start] ^= 1 << rng.randrange(8)
            case _:
                data += rng.randbytes(length)
    return bytes(data)


def mutated_json(content: bytes, rng: Random) -> bytes:
    """Return a JSON text with another structure or other bytes."""
    if rng.random() < 0.2:
        return mutated_bytes(content, rng)
    if rng.random() < 0.05:
        return rng.choice([b"[" * 100_000, b'{"a":' * 5000, b'{"a": 1, "a": 2}', b"", b"\xef\xbb\xbf{}", b"1" * 5000])
    return json.dumps(mutated_value(json.loads(content), rng), allow_nan=True).encode("utf-8", "surrogatepass")


def mutated_safetensors(content: bytes, rng: Random) -> bytes:
    """Return a safetensors file with another header, document or other bytes."""
    if rng.random() < 0.3:
        return mutated_bytes(content, rng)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    if metadata and rng.random() < 0.6:
        document = mutated_value(json.loads(metadata["rebasin_core"]), rng)
        text = rng.choice(["[", "3", "true", "[]", "[" * DEEP]) if rng.random() < 0.1 else json.dumps(document)
        metadata["rebasin_core"] = text
    elif rng.random() < 0.5:
        # Exchange or change the names of tensors.
        names = [name for name in header if name != "__metadata__"]
        first, second = rng.choice(names), rng.choice([*names, "x", "mean/", "/", rng.choice(TEXTS[3:5])])
        entries = header[first], header.get(second)
        header[second] = entries[0]
        if second != first:
            del header[first]
            if entries[1] is not None:
                header[first] = entries[1]
    else:
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry = header[name]
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        count = math.prod(entry["shape"])
        changes: list[dict[str, Any]] = [
            {"shape": shape} for shape in ([count], [1, count], [count, 1], entry["shape"][::-1], [2**62, 4])
        ]
        for dtype, width in (("U8", 1), ("F16", 2), ("BF16", 2), ("BOOL", 1), ("F8_E4M3", 1), ("I32", 4), ("C64", 8)):
            changes.append({"shape": [size // width], "dtype": dtype})
        entry.update(rng.choice([*changes, {"dtype": "F99"}]))
    raw = json.dumps(header).encode("utf-8", "surrogatepass")
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + content[8 + length :]


_LINES = (
    "a: &x [*x]", "b: &y {k: *y}", "? [1, 2]\n: 3", "c: !!timestamp 99", "d: !!int x", "e: !!bool 3", "f: !!float y",
    "g: !!binary '='", "h: !!set {1, 2}", "i: !!python/object/apply:os.system [true]", "<<: [1]", "<<: &m {<<: *m}",
    "j: 2020-99-99", "k: 1:99:99", "data: " + "[" * 1000 + "]" * 1000, "l: " + "{a: " * 500 + "}" * 500, "\0", "\x07",
    "seed: 1e400", "seed: 99999999999999999999", "seed: -1", "seed: .nan", "num_train: true", "--- a", "%YAML 9.9\n---",
    "z0: &z0 [1,1]\n" + "\n".join(f"z{k}: &z{k} [{','.join([f'*z{k - 1}'] * 9)}]" for k in range(1, 12)),
    "? *nothing\n: 1", "? &k {*k : 1}\n: 1",
)  # fmt: skip


def mutated_yaml(content: bytes, rng: Random) -> bytes:
    """Return a YAML text with invalid lines, another structure or other bytes."""
    lines = content.decode().splitlines()
    match rng.randrange(4):
        case 0:
            return mutated_bytes(content, rng)
        case 1:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(_LINES))
        case 2:
            index = rng.randrange(len(lines))
            key = lines[index].partition(":")[0]
            lines[index] = f"{key}: {json.dumps(invalid(rng))}"
        case _:
            lines[rng.randrange(len(lines))] = rng.choice(lines).replace(
                rng.choice("{}[]:,&*"), rng.choice("{}[]:,&*!")
            )
    return "\n".join(lines).encode("utf-8", "surrogatepass")


_TEXT_OF_WORDS = """
-i -o --input 999999999,999999 2,4:int<0 2,4:int<99999999999999999999999 0,3 2,3:bool 2,3 3 2,3:int . zero fifo a.npz
a.safetensors bad.yaml empty folder no/such/file nets:make nets:leave nets:number nets: : os:abort.x --matcher weight kl
nothing ../../x --data digits uci mnist --root --spec spec.json --method execution export --freeze * [ -k a=2,3 --meta
--points 3 2 -1 1e9 --weight -w nan 0.5 inf --repair reset --no-align --device cuda:99 cpu:-1 meta tpu -h --version --
--nonsense é run.yaml
"""
_WORDS = (*_TEXT_OF_WORDS.split(), "1" * 400, ",".join(["1"] * 200), "x" * 250, "x" * 300, "\udcff")


def mutated_arguments(arguments: list[str], rng: Random) -> list[str]:
    """Return a command line with words replaced, deleted, repeated or inserted."""
    words = list(arguments)
    for _ in range(rng.choice([1, 1, 2, 3])):
        index = rng.randrange(1, len(words) + 1) if rng.random() < 0.95 else 0
        match rng.randrange(4):
            case 0 if len(words) > 1 and index < len(words):
                del words[index]
            case 1 if index < len(words):
                words[index] = rng.choice(_WORDS)
            case 2 if index < len(words):
                words.insert(index, words[index])
            case _:
                words.insert(index, rng.choice(_WORDS))
    return words
