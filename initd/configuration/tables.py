"""Tables of a TOML document: which keys there are, what each holds, and what is wrong with one.

A description is a value, and everything comes from it: `read` checks what was parsed from a
document and gives typed values, `schema` says the same in JSON Schema, and the reference is printed
from it. A description:

    LINK = Table((
        Key("mtu", Integer(68, 65535), "largest packet, in bytes"),
        Key("dhcp", Boolean(), "ask for an address by DHCPv4", default=True),
        Key("addresses", Items(Text(parse=ip_interface)), "addresses with prefix length"),
    ))
    NETWORK = Table((Key("links", Tables(LINK), "links by name"),))
    values, problems = read(NETWORK, document["network"], "network")
    values["links"]["eth0"]["mtu"]
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from initd.values import NamedTuple

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
# How deep tables that are not looked into may go: as deep as json can write them for certain.
_DEPTH: Final = 50


class Problem(NamedTuple):
    """What is wrong with one key, `path` as TOML would have it: `network.links."eth0.5".id`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class Read(NamedTuple):
    """`values` has each key of the description: what it is read as, or its default. A key with a
    problem has its default there."""

    values: dict[str, Any]
    problems: tuple[Problem, ...]


class Text(NamedTuple):
    """`parse` gives what the text is read as, and raises ValueError with what is wrong with it:
    fact, then remedy. `pattern`, of the whole text, and `sample` are for the schema as well."""

    choices: tuple[str, ...] = ()
    pattern: str = ""
    sample: str = ""
    """What is meant by the pattern: `a MAC address such as 52:54:00:12:34:56`."""
    parse: Callable[[str], Any] | None = None


class Integer(NamedTuple):
    """A whole number from `least` to `most`."""

    least: int | None = None
    most: int | None = None


class Boolean(NamedTuple):
    """`true` or `false`."""


class Items(NamedTuple):
    """A list; it is read as a tuple."""

    of: "Kind"
    most: int | None = None


class Either(NamedTuple):
    """The first of these whose type in TOML the value has."""

    of: tuple["Kind", ...]


class Anything(NamedTuple):
    """A table that somebody else reads: it must be possible to write it as JSON, and that is all.
    `schema` is what the schema says of it."""

    schema: Callable[[], dict[str, Any]] | None = None
    check: Callable[[Mapping[str, Any]], Iterable[Problem]] | None = None
    """Gives problems with paths from the table on."""


class Key(NamedTuple):
    """One key of a table. Without a `default` it is read as None where it is not given, a table as
    an empty one, and so are tables by name."""

    name: str
    kind: "Kind"
    doc: str
    """One line, as in a list: no capital, no full stop."""
    default: Any = None
    required: bool = False
    secret: bool = False
    """Is not shown to who may only look."""
    boot: bool = False
    """A change takes effect at the next boot."""
    whole: bool = False
    """A table that is taken from one channel as a whole, where others are merged key by key."""
    example: str = ""
    """A value as TOML has it, for the reference."""


class Table(NamedTuple):
    """`check` is asked where each key by itself is right: it is given what was read, and gives
    problems with paths from the table on."""

    keys: tuple[Key, ...]
    check: Callable[[Mapping[str, Any]], Iterable[Problem]] | None = None


class Tables(NamedTuple):
    """Tables, or other values, by names that are the user's. `name` raises ValueError for one that
    is none."""

    of: "Kind"
    name: Callable[[str], Any] | None = None
    sample: str = "NAME"
    """The name in the reference."""


Kind: TypeAlias = Text | Integer | Boolean | Items | Either | Anything | Table | Tables


def read(table: Table, given: Mapping[str, Any], path: str = "") -> Read:
    """Check what TOML gave. Never raises for what a document can hold."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    known = [key.name for key in table.keys]
    problems += (
        Problem(join(path, name), unknown(name, known)) for name in given if name not in known
    )
    for key in table.keys:
        where = join(path, key.name)
        values[key.name] = _default(key)
        if key.name in given:
            value, found = _read(key.kind, given[key.name], where)
            problems += found
            if not found:
                values[key.name] = value
        elif key.required:
            problems.append(Problem(where, "is missing; set it"))
    if table.check is not None and not problems:
        problems += below(path, table.check(values))
    return Read(values, tuple(problems))


def below(path: str, problems: Iterable[Problem]) -> Iterator[Problem]:
    """The same problems, seen from outside of the table at `path`."""
    for problem in problems:
        inner = problem.path
        yield Problem(f"{path}.{inner}" if path and inner else path or inner, problem.message)


def join(path: str, name: str) -> str:
    """The path of key `name` in the table at `path`, quoted where TOML wants that."""
    if not _BARE.fullmatch(name):
        import json

        name = json.dumps(name)
    return f"{path}.{name}" if path else name


def split(path: str) -> list[str]:
    """The names of a path, up to the list that it leads into. Raises ValueError."""
    import json

    names = []
    rest = path
    while True:
        match = re.match(r'([A-Za-z0-9_-]+)|("(?:[^"\\]|\\.)*")', rest)
        if match is None:
            raise ValueError(f"{path!a} is no path of keys; write it as in TOML, such as a.b")
        names.append(match[1] or json.loads(match[2]))
        rest = rest[match.end() :]
        if not rest or rest.startswith("["):
            return names
        if not rest.startswith("."):
            raise ValueError(f"{path!a} is no path of keys; write it as in TOML, such as a.b")
        rest = rest[1:]


def unknown(name: str, known: Sequence[str]) -> str:
    """What to say of a key, or of a word, that is none of these."""
    import difflib

    if near := difflib.get_close_matches(name, known, 1, 0.5):
        return f"is not known; did you mean {near[0]}?"
    return f"is not known; it may be {', '.join(known)}" if known else "is not known"


def _default(key: Key) -> Any:
    if key.default is not None:
        return key.default
    match key.kind:
        case Table():
            return read(key.kind, {}).values
        case Tables() | Anything():
            return {}
        case Items():
            return ()
    return None


def _read(kind: Kind, value: Any, path: str) -> tuple[Any, Sequence[Problem]]:
    """What the value is read as, and what is wrong with it."""
    if isinstance(kind, Either):
        kind = next((one for one in kind.of if _fits(one, value)), kind)
    if not _fits(kind, value):
        return None, [Problem(path, f"is {_name_of(value)}, and must be {said(kind)}")]
    match kind:
        case Table():
            return read(kind, value, path)
        case Tables():
            return _read_tables(kind, value, path)
        case Items():
            return _read_items(kind, value, path)
        case Anything():
            return value, list(_read_anything(kind, value, path))
        case Integer():
            return value, list(_out_of_range(kind, value, path))
        case Text():
            try:
                return _read_text(kind, value), ()
            except ValueError as e:
                return None, [Problem(path, str(e))]
    return value, ()


def _read_tables(
    kind: Tables, value: Mapping[str, Any], path: str
) -> tuple[dict[str, Any], list[Problem]]:
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, one in value.items():
        where = join(path, name)
        try:
            if kind.name is not None:
                kind.name(name)
        except ValueError as e:
            problems.append(Problem(where, str(e)))
            continue
        values[name], found = _read(kind.of, one, where)
        problems += found
    return values, problems


def _read_items(kind: Items, value: Sequence[Any], path: str) -> tuple[Any, list[Problem]]:
    values: list[Any] = []
    problems: list[Problem] = []
    for number, one in enumerate(value):
        item, found = _read(kind.of, one, f"{path}[{number}]")
        values.append(item)
        problems += found
    if kind.most is not None and len(value) > kind.most:
        problems.append(Problem(path, f"has {len(value)} items; {kind.most} are the most"))
    return tuple(values), problems


def _read_text(kind: Text, value: str) -> Any:
    if kind.choices and value not in kind.choices:
        raise ValueError(f"{_shown(value)} {unknown(value, kind.choices)}")
    if kind.pattern and not re.fullmatch(kind.pattern, value):
        raise ValueError(f"{_shown(value)} is not {kind.sample or kind.pattern}")
    return value if kind.parse is None else kind.parse(value)


def _read_anything(kind: Anything, value: Mapping[str, Any], path: str) -> Iterator[Problem]:
    found = list(_not_json(value, path, 0))
    yield from found
    if kind.check is not None and not found:
        yield from below(path, kind.check(value))


def _not_json(value: Any, path: str, depth: int) -> Iterator[Problem]:
    if depth > _DEPTH:
        yield Problem(path, f"is nested more than {_DEPTH} deep; write it flatter")
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _not_json(one, join(path, name), depth + 1)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _not_json(one, f"{path}[{number}]", depth + 1)
    elif not isinstance(value, str | int | float) or value != value or value in _ENDLESS:
        yield Problem(path, f"is {_name_of(value)}, which no value here may be; write it as text")


_ENDLESS: Final = (float("inf"), float("-inf"))


def _out_of_range(kind: Integer, value: int, path: str) -> Iterator[Problem]:
    if (kind.least is not None and value < kind.least) or (
        kind.most is not None and value > kind.most
    ):
        yield Problem(path, f"is {value}, and must be {said(kind)}")


def _fits(kind: Kind, value: Any) -> bool:
    match kind:
        case Text():
            return isinstance(value, str)
        case Integer():
            return isinstance(value, int) and not isinstance(value, bool)
        case Boolean():
            return isinstance(value, bool)
        case Items():
            return isinstance(value, list | tuple)
        case Either():
            return any(_fits(one, value) for one in kind.of)
    return isinstance(value, Mapping)


def said(kind: Kind) -> str:
    """What a value must be, for people."""
    match kind:
        case Text():
            if kind.choices:
                return " or ".join(f'"{word}"' for word in kind.choices)
            return kind.sample or "text"
        case Integer(least, most):
            if least is not None and most is not None:
                return f"a whole number from {least} to {most}"
            bound = f", {least} or more" if least is not None else ""
            return f"a whole number{bound or (f', {most} or less' if most is not None else '')}"
        case Boolean():
            return "true or false"
        case Items():
            return f"a list, each {said(kind.of)}"
        case Either():
            return ", or ".join(map(said, kind.of))
    return "a table"


def _name_of(value: Any) -> str:
    """What a value of TOML is."""
    if isinstance(value, bool):
        return str(value).lower()
    names = {str: "text", int: "a number", float: "a number with a fraction", dict: "a table"}
    names |= {list: "a list"}
    return names.get(type(value), "a date or time")


def _shown(value: str) -> str:
    return f"{value[:80]!a}"


def schema(kind: Kind, doc: str = "", default: Any = None) -> dict[str, Any]:
    """As JSON Schema, 2020-12; the outermost is to have `$schema` and `$id` put before."""
    about: dict[str, Any] = {"description": doc} if doc else {}
    if default is not None:
        about["default"] = default
    return {**_schema(kind), **about}


def _schema(kind: Kind) -> dict[str, Any]:
    match kind:
        case Text():
            return {
                "type": "string",
                **({"enum": list(kind.choices)} if kind.choices else {}),
                **({"pattern": f"^(?:{kind.pattern})$"} if kind.pattern else {}),
            }
        case Integer(least, most):
            return {
                "type": "integer",
                **({} if least is None else {"minimum": least}),
                **({} if most is None else {"maximum": most}),
            }
        case Boolean():
            return {"type": "boolean"}
        case Items():
            bound = {} if kind.most is None else {"maxItems": kind.most}
            return {"type": "array", "items": schema(kind.of), **bound}
        case Either():
            return {"anyOf": [schema(one) for one in kind.of]}
        case Table():
            required = [key.name for key in kind.keys if key.required]
            return {
                "type": "object",
                "properties": {
                    key.name: schema(key.kind, key.doc, key.default) for key in kind.keys
                },
                **({"required": required} if required else {}),
                "additionalProperties": False,
            }
        case Tables():
            return {"type": "object", "additionalProperties": schema(kind.of)}
    return {"type": "object", **({} if kind.schema is None else kind.schema())}
