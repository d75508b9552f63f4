"""Licences as SPDX expressions: of Debian's copyright files, and of wheels."""

import re
from collections.abc import Callable, Iterable
from email.message import Message
from pathlib import Path
from typing import Final

NONE: Final = "NOASSERTION"

# Debian's short names (copyright-format 1.0) that are not SPDX's.
_NAMES: Final = {
    "expat": "MIT",
    "mit": "MIT",
    "mit-1": "MIT",
    "mit/x11": "MIT",
    "x11": "X11",
    "isc": "ISC",
    "zlib": "Zlib",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause",
    "bsd-2": "BSD-2-Clause",
    "bsd-3": "BSD-3-Clause",
    "apache-2": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "cc0": "CC0-1.0",
    "cc0-1.0": "CC0-1.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "bsl-1": "BSL-1.0",
    "bsl-1.0": "BSL-1.0",
    "mpl-1.1": "MPL-1.1",
    "ms-pl": "MS-PL",
    "fsfap": "FSFAP",
    "curl": "curl",
    "beerware": "Beerware",
    "mpl-2.0": "MPL-2.0",
    "python-2.0": "Python-2.0",
    "psf-2": "PSF-2.0",
    "openssl": "OpenSSL",
    "unicode": "Unicode-TOU",
    "0bsd": "0BSD",
}
_GNU: Final = re.compile(r"(gpl|lgpl|agpl|gfdl)-?v?(\d)(?:\.(\d))?(?:\.0)?(\+|-or-later|-only)?")

# What the classifiers and old fields of wheels say.
_WHEELS: Final = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "mit license": "MIT",
    "mit": "MIT",
}


def of_name(name: str) -> str:
    """SPDX's name of a licence that Debian calls `name`: `LicenseRef-…` where it has none."""
    lower = name.lower()
    if known := _NAMES.get(lower):
        return known
    if gnu := _GNU.fullmatch(lower):
        family, major, minor, later = gnu.groups()
        only = "or-later" if later in ("+", "-or-later") else "only"
        return f"{family.upper()}-{major}.{minor or 0}-{only}"
    return f"LicenseRef-{re.sub('[^A-Za-z0-9.-]+', '-', name).strip('-') or 'unnamed'}"


def expression(text: str) -> str:
    """SPDX's form of `A or B, and C`: the comma binds least."""
    return _joined(re.split(r",\s*(and|or)\s+", text.strip()), _simple)


def of_copyright(text: str) -> str:
    """What a copyright file of Debian says, where a machine can read it: all of its parts."""
    if not re.match(r"format(-specification)?:.*(copyright-format|dep5)", text, re.IGNORECASE):
        return NONE
    parts = (
        part for part in re.split(r"\n\s*\n", text) if re.search("^Files:", part, re.MULTILINE)
    )
    said = (re.search(r"^License:[ \t]*(\S.*)$", part, re.MULTILINE) for part in parts)
    return all_of(expression(found[1]) for found in said if found)


def of_wheel(metadata: Message) -> str:
    """What the core metadata of a Python distribution says."""
    if said := metadata.get("License-Expression"):
        return str(said)
    classifiers = metadata.get_all("Classifier") or []
    texts = [str(text).rpartition(" :: ")[2] for text in classifiers if "License ::" in str(text)]
    for text in (*texts, str(metadata.get("License") or "")):
        if known := _WHEELS.get(text.strip().lower()):
            return known
    return NONE


def all_of(expressions: Iterable[str]) -> str:
    """All of them hold."""
    each = sorted(set(expressions) - {NONE})
    if not each:
        return NONE
    return " AND ".join(f"({one})" if " " in one else one for one in each) if each[1:] else each[0]


def references(expressions: Iterable[str]) -> list[str]:
    """The licences among them that SPDX has no name for."""
    return sorted(
        {name for one in expressions for name in re.findall(r"LicenseRef-[A-Za-z0-9.-]+", one)}
    )


def copyright_file(tree: Path, package: str) -> str:
    """What a tree has of a package's licence; empty if nothing."""
    path = tree / "usr/share/doc" / package / "copyright"
    return path.read_text(errors="replace") if path.exists() else ""


def _simple(text: str) -> str:
    """Of names joined by `and` and `or`, where `and` binds more."""
    return _joined(re.split(r"\s+(and|or|and/or)\s+", text.strip()), of_name)


def _joined(words: list[str], form: Callable[[str], str]) -> str:
    """`words` are what `form` understands, with an `and` or `or` between each two."""
    if len(words) == 1:
        return form(words[0])
    parts = []
    for number, word in enumerate(words):
        if number % 2:
            parts.append("AND" if word == "and" else "OR")
        else:
            part = form(word)
            parts.append(f"({part})" if " " in part else part)
    return " ".join(parts)
