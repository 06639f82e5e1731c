"""Numbers and arrays that behave as numpy's and pandas' do where that surprises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self


class Int8:
    """An integer of eight bits: all that is calculated with it has eight bits as well."""

    low = -128

    def __init__(self, value: int) -> None:
        self._value = (value - self.low) % 256 + self.low

    def __index__(self) -> int:
        return self._value

    def __float__(self) -> float:
        return float(self._value)

    def __mul__(self, other: int) -> Self:
        return type(self)(self._value * other)

    def __add__(self, other: int) -> Self:
        return type(self)(self._value + other)

    def __neg__(self) -> Self:
        return type(self)(-self._value)

    __radd__, __rmul__ = __add__, __mul__

    def __le__(self, other: float) -> bool:
        return self._value <= other

    def __lt__(self, other: float) -> bool:
        return self._value < other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._value})"


class UInt8(Int8):
    """The same without negative numbers."""

    low = 0


class Float16:
    """A number whose type ends at 65,504, and that is no child of float."""

    def __init__(self, value: float) -> None:
        self._value = float(value) if abs(value) <= 65_504 else float("inf")

    def __float__(self) -> float:
        return self._value

    def __mul__(self, other: float) -> Float16:
        return Float16(self._value * other)

    def __le__(self, other: float) -> bool:
        return self._value <= other

    def __lt__(self, other: float) -> bool:
        return self._value < other


class Array:
    """A collection that is neither true nor false."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = list(items)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __contains__(self, item: object) -> bool:
        raise AssertionError("pandas looks among the labels")

    def __bool__(self) -> bool:
        raise ValueError("The truth value of an array is ambiguous.")


class Series(Array):
    """An array whose items have labels; it is no Mapping."""

    def __init__(self, data: dict[Any, Any]) -> None:
        super().__init__(data.values())
        self._data = data
        self.values = Array(data.values())

    def items(self) -> Iterable[tuple[Any, Any]]:
        return iter(self._data.items())
