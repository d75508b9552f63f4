"""The bill of materials, and licences in it."""

import json
from email.parser import Parser
from pathlib import Path

import pytest
from license_expression import get_spdx_licensing
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from image import licences, sbom
from image.lock import Package

DIGEST = "ab" * 32
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: thing

Files: *
Copyright: 1999 Somebody
License: GPL-2+ or Artistic, and Expat
 Text of it.

Files: debian/*
License: public-domain

License: GPL-2+
 Not a licence of files.
"""


def tree(folder: Path, name: str, said: str = COPYRIGHT) -> Path:
    documents = folder / "usr/share/doc" / name
    documents.mkdir(parents=True)
    (documents / "copyright").write_text(said)
    return folder


def example(folder: Path) -> list[sbom.Part]:
    base = tree(tree(folder / "base", "libstdc++6"), "kmod", "no machine reads this")
    fields = {"Version": "1:2.3+x~1-4", "Architecture": "amd64", "Source": "gcc (14.2-1)"}
    locked = Package("libstdc++6", "1:2.3+x~1-4", DIGEST)
    packages = folder / "packages"
    for name, licence in (("grpcio", "License-Expression: Apache-2.0"), ("auraed", "")):
        metadata = packages / f"{name}-1.0.dist-info/METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{licence}\n")
    return [
        sbom.ours("0.2.0"),
        *sbom.wheels(packages, {"grpcio": ("grpcio-1.0-cp313.whl", DIGEST)}),
        sbom.deb(base, "libstdc++6", fields, locked),
        sbom.deb(base, "kmod", {"Version": "34", "Architecture": "amd64"}, None),
    ]


def written(folder: Path, name: str = "aurae.spdx.json") -> Path:
    content = sbom.document(
        "0.2.0", example(folder), digests={"root.erofs": DIGEST}, comment="not as locked"
    )
    sbom.write(folder / name, content)
    return folder / name


@pytest.mark.filterwarnings("ignore")
def test_it_is_valid_spdx_to_a_reader_by_others(tmp_path: Path) -> None:
    document = parse_file(str(written(tmp_path)))
    assert validate_full_spdx_document(document, "SPDX-2.3") == []
    names = {package.name for package in document.packages}
    assert names == {"aurae", "auraed", "grpcio", "kmod", "libstdc++6"}


def test_it_names_where_each_part_comes_from(tmp_path: Path) -> None:
    packages = {p["name"]: p for p in json.loads(written(tmp_path).read_text())["packages"]}
    library = packages["libstdc++6"]
    [reference] = library["externalRefs"]
    locator = "pkg:deb/debian/libstdc++6@1%3A2.3%2Bx~1-4?arch=amd64&distro=trixie"
    assert reference["referenceLocator"] == locator
    assert library["sourceInfo"].endswith("gcc 14.2-1")
    assert library["checksums"] == [{"algorithm": "SHA256", "checksumValue": DIGEST}]
    assert packages["grpcio"]["packageFileName"] == "grpcio-1.0-cp313.whl"
    assert packages["grpcio"]["licenseDeclared"] == "Apache-2.0"
    assert packages["kmod"]["licenseDeclared"] == "NOASSERTION"
    assert "checksums" not in packages["kmod"]


def test_it_is_the_same_bytes_twice(tmp_path: Path) -> None:
    one, other = written(tmp_path / "one"), written(tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()


def test_a_copyright_file_is_all_of_its_parts() -> None:
    said = licences.of_copyright(COPYRIGHT)
    gpl = "((GPL-2.0-or-later OR Artistic-1.0-Perl) AND MIT)"
    assert said == f"{gpl} AND LicenseRef-public-domain"
    assert licences.references([said]) == ["LicenseRef-public-domain"]


@pytest.mark.parametrize(
    ("debian", "spdx"),
    [
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("GPL-3.0+", "GPL-3.0-or-later"),
        ("Expat", "MIT"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("Apache-2.0", "Apache-2.0"),
        ("GPL-2 with Linux-syscall-note exception", None),
        ("same as above (see file)", None),
    ],
)
def test_each_name_is_a_valid_expression(debian: str, spdx: str | None) -> None:
    said = licences.expression(debian)
    assert said == spdx if spdx else said.startswith("LicenseRef-")
    unknown = get_spdx_licensing().unknown_license_keys(said)
    assert all(name.startswith("LicenseRef-") for name in unknown)


@pytest.mark.parametrize(
    ("metadata", "spdx"),
    [
        ("License-Expression: MIT OR Apache-2.0\n", "MIT OR Apache-2.0"),
        ("Classifier: License :: OSI Approved :: Apache Software License\n", "Apache-2.0"),
        ("License: 3-Clause BSD License\n", "BSD-3-Clause"),
        ("License: what I like\n", "NOASSERTION"),
    ],
)
def test_a_wheel_says_its_licence_in_one_of_three_ways(metadata: str, spdx: str) -> None:
    assert licences.of_wheel(Parser().parsestr(metadata)) == spdx
