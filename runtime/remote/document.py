"""From `aurae.config=` to a verified document on file: tried until it is there."""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from random import random
from typing import Final

from initd.values import NamedTuple
from runtime.remote import address, signature, transfer
from runtime.remote.transfer import Limits

log = logging.getLogger(__name__)

# Seconds to the second try; each further one is put off for twice as long, up to the limit, give or
# take a quarter: machines that were switched on together do not ask together for ever.
FIRST: Final = 1.0
LONGEST: Final = 60.0
# The network may take so many tries to be there, before that is worth a line.
QUIET: Final = 3


class Source(NamedTuple):
    """Where the document is, and whose it must be, as the kernel command line says it."""

    url: str
    key: str
    boot_card: str = ""
    """`BOOTIF=`"""
    authorities: Path | None = None
    """Certificates (PEM) that an https server must be signed by, if the file exists."""


async def keep(source: Source, target: Path, limits: Limits = Limits()) -> None:  # noqa: B008
    """Return once `target` holds the document, or it is clear that it never will."""
    if os.path.exists(target):  # noqa: ASYNC240, PTH110 (in memory)
        # Of this boot: an earlier runtime has fetched it.
        return
    try:
        address.check(source.url)
        key = signature.parse_key(_given(source.key))
        context = _context(source)
    except (ValueError, OSError) as e:
        log.error("aurae.config=%s: %s", source.url, e)
        return
    waits = _waits()
    tries = 0
    while True:
        tries += 1
        try:
            await _take(source, key, context, target, limits)
        except (OSError, ValueError) as e:
            wait = next(waits)
            unreachable = isinstance(e, OSError) and tries <= QUIET
            tell = log.debug if unreachable else log.warning
            tell("configuration by URL: %s; asks again in %.0f s", _words(e), wait)
            await asyncio.sleep(wait)
        else:
            return


async def _take(
    source: Source, key: bytes, context: ssl.SSLContext, target: Path, limits: Limits
) -> None:
    """From the first of this node's URLs that has it. Raises OSError or ValueError: those of the
    last."""
    urls = address.candidates(source.url, address.booted_by(source.boot_card))
    for number, url in enumerate(urls, 1):
        try:
            document = await _verified(url, key, context, limits)
        except (OSError, ValueError) as e:
            if number == len(urls):
                kind = OSError if isinstance(e, OSError) else ValueError
                raise kind(f"{url}: {_words(e)}") from e
        else:
            await asyncio.to_thread(_write, target, document)
            log.info("configuration by URL: %s, %d bytes", url, len(document))
            return


async def _verified(url: str, key: bytes, context: ssl.SSLContext, limits: Limits) -> bytes:
    document = await transfer.fetch(url, context, limits)
    try:
        signed = await transfer.fetch(address.signature(url), context, limits)
    except ValueError as e:
        raise ValueError(f"its signature (.sig): {e}") from e
    signature.verify(document, signed, key)
    return document


def _write(target: Path, document: bytes) -> None:
    """A reader sees nothing, or all of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(document)
    new.replace(target)


def _given(key: str) -> str:
    if not key:
        raise ValueError(
            "is not asked: nothing is taken without a key; give that of its signer by "
            "aurae.config-key=BASE64"
        )
    return key


def _context(source: Source) -> ssl.SSLContext:
    """How an https server is known. The document is known by its signature, so that one without
    authorities keeps listeners out, and nothing more."""
    if source.authorities is not None and source.authorities.exists():
        return ssl.create_default_context(cafile=str(source.authorities))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _waits(chance: Callable[[], float] = random) -> Iterator[float]:
    wait = FIRST
    while True:
        yield wait * (0.75 + chance() / 2)
        wait = min(2 * wait, LONGEST)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
