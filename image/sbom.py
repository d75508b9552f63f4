"""The bill of materials, `aurae.spdx.json`: SPDX 2.3, of what the image is made of.

Debian's packages of which a file is in the root or on the disk, the wheels, and our own code.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import BytesParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from image import debian, licences, lock
from image.mkosi import EPOCH

# Of the tools, what is copied to the disk.
FROM_TOOLS: Final = ("systemd-boot-efi",)

_NAMESPACE: Final = uuid.UUID("d7e2f5a4-4a52-4d0c-9a3b-6f5f0f8c0a11")
_CREATED: Final = datetime.fromtimestamp(EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Part:
    """A package of somebody that the image has something of."""

    kind: str
    """`deb`, `pypi` or `generic`: the type of a package URL."""
    name: str
    version: str
    licence: str
    purl: str
    supplier: str = licences.NONE
    source: str = ""
    sha256: str = ""
    file: str = ""


def deb(tree: Path, name: str, fields: Mapping[str, str], package: lock.Package | None) -> Part:
    """A package that a Debian tree has. `fields` are dpkg's."""
    version = fields["Version"]
    source, _, source_version = fields.get("Source", name).partition(" ")
    purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={fields['Architecture']}"
    known = package is not None and package.version == version
    return Part(
        kind="deb",
        name=name,
        version=version,
        licence=licences.of_copyright(licences.copyright_file(tree, name)),
        purl=f"{purl}&distro={debian.SUITE}",
        supplier="Organization: Debian",
        source=f"{source} {source_version.strip('()') or version}",
        sha256=package.sha256 if package and known else "",
    )


def wheels(packages: Path, files: Mapping[str, tuple[str, str]]) -> list[Part]:
    """What lies among installed packages. `files` has each wheel's file name and SHA-256 by its
    normalized name; ours is not in it, and left out."""
    parts = []
    for path in sorted(packages.glob("*.dist-info/METADATA")):
        metadata = BytesParser().parsebytes(path.read_bytes(), headersonly=True)
        name = normalized(str(metadata["Name"]))
        if name not in files:
            continue
        file, sha256 = files[name]
        version = str(metadata["Version"])
        parts.append(
            Part(
                kind="pypi",
                name=name,
                version=version,
                licence=licences.of_wheel(metadata),
                purl=f"pkg:pypi/{name}@{quote(version, safe='')}",
                sha256=sha256,
                file=file,
            )
        )
    return parts


def normalized(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def ours(version: str) -> Part:
    return Part(
        kind="generic",
        name="auraed",
        version=version,
        licence="Apache-2.0",
        purl=f"pkg:generic/auraed@{version}",
    )


def document(
    version: str, parts: Iterable[Part], *, digests: Mapping[str, str], comment: str
) -> dict[str, Any]:
    """The document. `digests` are SHA-256 of the image's files by name, `comment` is what a reader
    must know."""
    parts = sorted(parts, key=lambda part: (part.kind, part.name))
    image = {
        "SPDXID": "SPDXRef-aurae",
        "name": "aurae",
        "versionInfo": version,
        "primaryPackagePurpose": "OPERATING_SYSTEM",
        "downloadLocation": licences.NONE,
        "filesAnalyzed": False,
        "licenseConcluded": licences.NONE,
        "licenseDeclared": licences.NONE,
        "copyrightText": licences.NONE,
        "summary": "An appliance whose init system serves one gRPC API",
        "comment": "".join(f"{name} sha256:{digest}\n" for name, digest in sorted(digests.items())),
    }
    creation = {"created": _CREATED, "creators": ["Tool: aurae-image"]}
    if comment:
        creation["comment"] = comment
    names = licences.references(part.licence for part in parts)
    content: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"aurae-{version}",
        "creationInfo": creation,
        "packages": [image, *map(_package, parts)],
        "hasExtractedLicensingInfos": [_licence(name, parts) for name in names],
        "relationships": [
            _relationship("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-aurae"),
            *(_relationship("SPDXRef-aurae", "CONTAINS", _id(part)) for part in parts),
        ],
    }
    same = json.dumps(content, sort_keys=True)
    unique = uuid.uuid5(_NAMESPACE, same)
    content["documentNamespace"] = f"https://spdx.org/spdxdocs/aurae-{version}-{unique}"
    return content


def write(output: Path, content: Mapping[str, Any]) -> None:
    output.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _package(part: Part) -> dict[str, Any]:
    package: dict[str, Any] = {
        "SPDXID": _id(part),
        "name": part.name,
        "versionInfo": part.version,
        "supplier": part.supplier,
        "downloadLocation": licences.NONE,
        "filesAnalyzed": False,
        "licenseConcluded": licences.NONE,
        "licenseDeclared": part.licence,
        "copyrightText": licences.NONE,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": part.purl,
            }
        ],
    }
    if part.sha256:
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": part.sha256}]
    if part.file:
        package["packageFileName"] = part.file
    if part.source:
        package["sourceInfo"] = f"built from the source package {part.source}"
    return package


def _licence(name: str, parts: Iterable[Part]) -> dict[str, str]:
    users = [part.name for part in parts if name in licences.references([part.licence])]
    where = ", ".join(f"/usr/share/doc/{user}/copyright" for user in users)
    return {
        "licenseId": name,
        "name": name.removeprefix("LicenseRef-"),
        "extractedText": f"The text is in {where}",
    }


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _id(part: Part) -> str:
    name = part.name.replace("+", "-plus").replace("_", "-")
    return f"SPDXRef-{part.kind}-{name}"
