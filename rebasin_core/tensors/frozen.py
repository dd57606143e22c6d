"""An immutable mapping that can be pickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar, final

from typing_extensions import override

K = TypeVar("K")
V_co = TypeVar("V_co", covariant=True)


@final
class FrozenMapping(Mapping[K, V_co]):
    """A read-only copy of a mapping.

    Unlike `types.MappingProxyType` it can be pickled and deep-copied, and thus be sent to other processes. Equality is
    that of mappings. It is not hashable, since its values may not be.

    Args:
        items: The mapping. It is copied, so later changes have no effect; its values are not copied.

    Examples:
        >>> sizes = FrozenMapping({"hidden": 3})
        >>> sizes["hidden"], sizes == {"hidden": 3}
        (3, True)
        >>> sizes["hidden"] = 4
        Traceback (most recent call last):
        ...
        TypeError: 'FrozenMapping' object does not support item assignment
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[K, V_co]) -> None:
        self._items = dict(items)

    @override
    def __getitem__(self, key: K) -> V_co:
        """Return the value of a key."""
        return self._items[key]

    @override
    def __contains__(self, key: object) -> bool:
        """Return whether there is a value for a key."""
        return key in self._items

    @override
    def __iter__(self) -> Iterator[K]:
        """Return an iterator over the keys, in their order."""
        return iter(self._items)

    @override
    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._items)

    @override
    def __reduce__(self) -> tuple[type[FrozenMapping[K, V_co]], tuple[dict[K, V_co]]]:
        """Return the constructor and its arguments, for pickling and deep copies."""
        return FrozenMapping, (self._items,)

    def __copy__(self) -> FrozenMapping[K, V_co]:
        """Return this mapping, which needs no copy."""
        return self

    @override
    def __repr__(self) -> str:
        """Return the class and the items."""
        return f"FrozenMapping({self._items!r})"
