"""Named tuples that are cheap to make.

`typing.NamedTuple` compiles a function for each class: a tenth of the time that auraed takes to
import itself. These do without. An object of theirs takes 1 us more to make when not all fields
are given by place, and 2 us more to replace (3.13, natively). To type checkers they are the same.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter

    class _Class(type):
        def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            if bases[0] is tuple or hasattr(bases[0], "_fields"):
                # The first of all, or one derived from one that has its fields.
                return super().__new__(mcs, name, bases, body)
            made = super().__new__(mcs, name, bases, {**body, "__slots__": ()})
            fields = tuple(made.__annotations__)
            defaults = {field: body[field] for field in fields if field in body}
            if len(bases) > 1 or tuple(defaults) != fields[len(fields) - len(defaults) :]:
                raise TypeError(f"{name}: one base, and fields without a default come first")
            made.__match_args__ = made._fields = fields
            made._field_defaults = defaults
            for place, field in enumerate(fields):
                setattr(made, field, _tuplegetter(place, None))
            return made

    class NamedTuple(tuple, metaclass=_Class):
        """Derive from it, and annotate the fields in their order."""

        __slots__ = ()

        def __new__(cls, *args: Any, **named: Any) -> "NamedTuple":
            fields = cls._fields
            if named or len(args) != len(fields):
                given = dict(zip(fields, args, strict=False))
                if len(args) > len(fields) or not given.keys().isdisjoint(named):
                    raise TypeError(f"{cls.__name__}: {len(args)} fields, and {', '.join(named)}")
                whole = {**cls._field_defaults, **given, **named}
                if whole.keys() != set(fields):
                    wrong = ", ".join(map(repr, sorted(whole.keys() ^ set(fields))))
                    raise TypeError(f"{cls.__name__}: missing, or unknown: {wrong}")
                args = tuple([whole[field] for field in fields])
            return tuple.__new__(cls, args)

        @classmethod
        def _make(cls, values: Any) -> "NamedTuple":
            return cls(*values)

        def _replace(self, /, **named: Any) -> "NamedTuple":
            return type(self)(**{**self._asdict(), **named})

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self) -> str:
            fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({fields})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)
