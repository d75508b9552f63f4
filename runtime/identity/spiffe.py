"""SPIFFE IDs, as the SPIFFE-ID standard defines them (sections 2.1 to 2.4)."""

import re
from typing import Final, NamedTuple, Self

SCHEME: Final = "spiffe://"
MAX_ID: Final = 2048
MAX_TRUST_DOMAIN: Final = 255

_NOT_TRUST_DOMAIN: Final = r"[^a-z0-9._-]"
_NOT_SEGMENT: Final = r"[^a-zA-Z0-9._-]"


def parse_trust_domain(text: str) -> str:
    """Return `text` if it is a trust domain's name. Raises ValueError naming the rule."""
    if not text:
        raise ValueError("the trust domain is empty; it takes 1 to 255 of a-z 0-9 . _ -")
    if len(text) > MAX_TRUST_DOMAIN:
        raise ValueError(f"the trust domain has {len(text)} characters; at most {MAX_TRUST_DOMAIN}")
    if bad := re.search(_NOT_TRUST_DOMAIN, text):
        raise ValueError(f"the trust domain has {bad[0]!a}; it takes a-z 0-9 . _ - only")
    return text


def parse_segment(text: str) -> str:
    """Return `text` if it can stand between two slashes of a path. Raises ValueError."""
    if not text:
        raise ValueError("a path segment is empty; no // and no / at the end")
    if text in {".", ".."}:
        raise ValueError(f"the path has the segment {text!a}; no . and no ..")
    if bad := re.search(_NOT_SEGMENT, text):
        raise ValueError(f"the path has {bad[0]!a}; segments take a-z A-Z 0-9 . _ - only")
    return text


class _Parts(NamedTuple):
    trust_domain: str
    path: str
    """Empty for the trust domain itself, else it begins with a slash."""


class SpiffeId(_Parts):
    """A valid SPIFFE ID. Two are the same identity if and only if they are equal."""

    __slots__ = ()

    def __new__(cls, trust_domain: str, path: str = "") -> Self:
        """Raises ValueError naming the rule that a part breaks."""
        parse_trust_domain(trust_domain)
        if path:
            if not path.startswith("/"):
                raise ValueError(f"the path {path!a} does not begin with /")
            for segment in path[1:].split("/"):
                parse_segment(segment)
        self = super().__new__(cls, trust_domain, path)
        # Both parts are ASCII by now, so characters are bytes.
        if (length := len(str(self))) > MAX_ID:
            raise ValueError(f"it has {length} bytes; a SPIFFE ID has at most {MAX_ID}")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """The ID that `text` is, to the letter: nothing is normalised, trimmed or decoded.

        Raises ValueError naming the rule that `text` breaks.
        """
        try:
            if not text.startswith(SCHEME):
                raise ValueError(f"it does not begin with {SCHEME}")
            trust_domain, slash, path = text[len(SCHEME) :].partition("/")
            return cls(trust_domain, slash + path)
        except ValueError as e:
            shown = text if len(text) <= 100 else text[:100] + "…"
            raise ValueError(f"SPIFFE ID {shown!a}: {e}") from None

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}{self.path}"

    def below(self, path: str) -> str | None:
        """What follows `path` in this ID's path, or None where it lies elsewhere.

        `SpiffeId.parse("spiffe://td/person/ann").below("/person/")` is `"ann"`. `path` begins and
        ends with a slash.
        """
        if not self.path.startswith(path):
            return None
        return self.path[len(path) :]
