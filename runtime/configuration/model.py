"""A configuration as it is shown, and what is to be known of it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from initd.configuration import document
from initd.configuration.channels import Hidden, Merged, leaves
from initd.configuration.tables import Problem, join
from initd.values import NamedTuple


class Setting(NamedTuple):
    """A value, as JSON, and the channel that it is from. Of a secret, the value is empty."""

    key: str
    value: str
    origin: str
    secret: bool


class Trial(NamedTuple):
    """A document that holds until `deadline`, in seconds of CLOCK_BOOTTIME, and no longer."""

    document: str
    deadline: float
    volatile: bool

    @property
    def revision(self) -> str:
        return revision_of(self.document)

    @classmethod
    def from_json(cls, text: str) -> "Trial":
        """Raises ValueError, KeyError, TypeError."""
        found = json.loads(text)
        return cls(str(found["document"]), float(found["deadline"]), bool(found["volatile"]))

    def to_json(self) -> str:
        return json.dumps(self._asdict())


class Checked(NamedTuple):
    """A document before it is applied: what is wrong, what is to be known, what would hold."""

    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    merged: Merged


def revision_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def settings(merged: Merged) -> Iterator[Setting]:
    """All values with their origin, those that nobody gives last."""
    given = set()
    for path, value in leaves(merged.values):
        given.add(path)
        yield setting(path, value, merged.origin.get(path, ""))
    for path, value in document.defaults():
        if path not in given:
            yield setting(path, value, "default")


def setting(path: str, value: Any, origin: str) -> Setting:
    secret = document.is_secret(path)
    return Setting(path, "" if secret else json.dumps(value), origin, secret)


def hidden_notes(hidden: Iterable[Hidden], merged: Merged) -> Iterator[Problem]:
    """What a stored document says in vain."""
    values = dict(leaves(merged.values))
    for one in hidden:
        if one.channel != "stored":
            continue
        if not one.by:
            yield Problem(
                one.path,
                "is needed before what is stored can be read, so it does not count; give it by "
                "another channel",
            )
        elif values.get(one.path) != one.value:
            yield Problem(one.path, f"is hidden: {one.by} has another value, which goes before")


def link_notes(values: Mapping[str, Any], command_line: str) -> Iterator[Problem]:
    """Links of which the command line says all there is to say."""
    links = values.get("network", {}).get("links", {})
    for name in document.links_of_command_line(command_line) if links else ():
        if name in links:
            yield Problem(
                join("network.links", name),
                "is hidden: ip= of the kernel command line is for this link, and goes before",
            )
        elif not name:
            yield Problem(
                "network.links",
                "is hidden for the first link: ip= of the kernel command line goes before",
            )


def boot_notes(now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[Problem]:
    """What differs from what the node was booted with, and is not changed while it runs."""
    before, after = dict(leaves(now)), dict(leaves(then))
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path) and document.is_for_boot(path):
            yield Problem(path, "takes effect at the next boot")
