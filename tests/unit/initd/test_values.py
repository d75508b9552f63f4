"""Values are what `typing.NamedTuple` makes, and refuse what it refuses."""

import pickle
import typing
from collections.abc import Callable
from typing import Any

import pytest

from initd.values import NamedTuple


class Ours(NamedTuple):
    first: int
    second: str = "two"
    third: tuple[int, ...] = ()

    @property
    def doubled(self) -> int:
        return 2 * self.first


class Theirs(typing.NamedTuple):
    first: int
    second: str = "two"
    third: tuple[int, ...] = ()


class Derived(Ours):
    __slots__ = ()

    note: str = "no field"


@pytest.mark.parametrize(
    "call",
    [
        lambda kind: kind(1),
        lambda kind: kind(1, "b", (3,)),
        lambda kind: kind(1, third=(3,)),
        lambda kind: kind(third=(3,), first=1),
        lambda kind: kind(1)._replace(second="b"),
        lambda kind: kind._make((1, "b", ())),
        lambda kind: kind(1)._asdict(),
        lambda kind: (kind._fields, kind._field_defaults, kind.__match_args__),
        lambda kind: kind(1).second,
        lambda kind: hash(kind(1)),
        lambda kind: kind(1, "b") < kind(1, "c"),
        lambda kind: repr(kind(1)).removeprefix(kind.__name__),
    ],
)
def test_they_answer_as_named_tuples_do(call: Callable[[Any], Any]) -> None:
    assert call(Ours) == call(Theirs)


@pytest.mark.parametrize(
    "call",
    [
        lambda kind: kind(),
        lambda kind: kind(second="b"),
        lambda kind: kind(1, "b", (), 4),
        lambda kind: kind(1, first=1),
        lambda kind: kind(1, fourth=4),
        lambda kind: kind(1)._replace(fourth=4),
        lambda kind: setattr(kind(1), "first", 2),
        lambda kind: setattr(kind(1), "fourth", 4),
    ],
)
def test_they_refuse_what_named_tuples_refuse(call: Callable[[Any], Any]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises((TypeError, AttributeError, ValueError)):
            call(kind)


def test_they_are_tuples_with_methods_and_can_be_pickled() -> None:
    assert Ours(1) == (1, "two", ())
    assert Ours(4).doubled == 8
    assert pickle.loads(pickle.dumps(Ours(1, "b"))) == Ours(1, "b")


def test_what_is_derived_has_the_same_fields() -> None:
    assert Derived(1)._fields == Ours._fields
    assert Derived.note == "no field"


def test_a_field_without_a_default_after_one_with_is_refused() -> None:
    with pytest.raises(TypeError, match="come first"):

        class Wrong(NamedTuple):
            first: int = 1
            second: int  # type: ignore[misc]
