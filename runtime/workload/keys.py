"""The keys that JWT-SVIDs are signed with: made here, and never written down."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from initd.values import NamedTuple
from runtime.identity.spiffe import SpiffeId
from runtime.workload import tokens
from runtime.workload.model import Claims
from runtime.workload.tokens import Jwk, SigningKey

log = logging.getLogger(__name__)

# Seconds that a key signs, and that a token is valid.
KEY_LIFE: Final = 6 * 3600.0
TOKEN_LIFE: Final = 300.0
# Earlier keys that are kept: a runtime that starts over and over makes new ones each time.
MOST: Final = 16


class KeySet(NamedTuple):
    """What JWT-SVIDs are verified with."""

    jwks: bytes
    """A JWK Set (RFC 7517)."""
    due: float
    """Until when it stays as it is."""


class _Retired(NamedTuple):
    """A key that signs no more; until then, a token by it may be valid."""

    jwk: Jwk
    until: float


class SigningKeys:
    """One key signs, and the next is in the bundle already: who verifies knows it when its time
    comes. Earlier ones stay there until the last token by them has expired.

    The public keys are on file, so tokens outlive the runtime that signed them.
    """

    def __init__(
        self,
        file: Path,
        *,
        key_life: float = KEY_LIFE,
        token_life: float = TOKEN_LIFE,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._key_life = key_life
        self._token_life = token_life
        self._now = now
        until = now() + token_life
        self._retired = [_Retired(jwk, until) for jwk in _read(file)][-MOST:]
        self._key, self._next = SigningKey.make(), SigningKey.make()
        self._since = now()
        self._write()

    def sign(self, spiffe_id: SpiffeId, audience: Sequence[str]) -> str:
        self._turn()
        issued = int(self._now())
        expires = issued + int(self._token_life)
        return tokens.sign(self._key, spiffe_id, audience, issued=issued, expires=expires)

    def verify(self, token: str, audience: str, trust_domain: str) -> Claims:
        """Raises ValueError."""
        self._turn()
        return tokens.verify(token, audience, trust_domain, self._jwks(), self._now())

    def public(self) -> KeySet:
        self._turn()
        due = min([self._since + self._key_life, *(old.until for old in self._retired)])
        return KeySet(jwks=json.dumps({"keys": self._jwks()}).encode(), due=due)

    def _jwks(self) -> list[Jwk]:
        return [self._key.jwk, self._next.jwk, *(old.jwk for old in self._retired)]

    def _turn(self) -> None:
        """Do what is due."""
        now = self._now()
        # A clock that was set back must not make a key's life longer.
        self._since = min(self._since, now)
        kept = [old for old in self._retired if old.until > now]
        changed = len(kept) != len(self._retired)
        if now >= self._since + self._key_life:
            kept.append(_Retired(self._key.jwk, now + self._token_life))
            self._key, self._next, self._since = self._next, SigningKey.make(), now
            changed = True
        if changed:
            self._retired = kept
            self._write()

    def _write(self) -> None:
        fresh = self._file.with_name(f".{self._file.name}")
        try:
            fresh.write_text(json.dumps(self._jwks()))
            fresh.replace(self._file)
        except OSError as e:
            log.warning("%s: cannot be kept, tokens end with this runtime: %s", self._file, e)


def _read(file: Path) -> list[Jwk]:
    try:
        found: list[Jwk] = json.loads(file.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as e:
        log.warning("%s: cannot be read, so earlier tokens are refused: %s", file, e)
        return []
    return found
