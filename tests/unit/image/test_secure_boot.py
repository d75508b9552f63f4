"""Which keys sign, and what of an EFI program is measured."""

import struct
from pathlib import Path

import pytest

from image import measure, secure_boot
from image.errors import BuildError


def keys(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def test_nothing_is_signed_unless_it_is_asked_for() -> None:
    assert secure_boot.find({}) is None
    assert secure_boot.find({"SECURE_BOOT": ""}) is None


def test_a_folder_has_key_and_certificate(tmp_path: Path) -> None:
    folder = keys(tmp_path, "db.key", "db.crt")
    found = secure_boot.find({"SECURE_BOOT": str(folder)})
    assert found is not None
    assert set(found.files) == {folder / "db.key", folder / "db.crt"}
    assert "--signing-provider=pkcs11" not in found.for_ukify()


def test_own_variables_take_the_place_of_those_that_are_made(tmp_path: Path) -> None:
    folder = keys(tmp_path, "db.key", "db.crt", "PK.auth", "KEK.auth", "db.auth")
    found = secure_boot.find({"SECURE_BOOT": str(folder)})
    assert found is not None
    found.prepare_enrolment(None, tmp_path / "esp")  # type: ignore[arg-type]  # no tool is needed
    assert (tmp_path / "esp/loader/keys/auto/PK.auth").read_text() == "PK.auth"
    assert folder / "PK.auth" in found.files


@pytest.mark.parametrize("missing", ["db.key", "db.crt"])
def test_a_folder_that_lacks_one_is_refused_and_says_who_makes_it(
    tmp_path: Path, missing: str
) -> None:
    folder = keys(tmp_path, *({"db.key", "db.crt"} - {missing}))
    with pytest.raises(BuildError, match=rf"{missing}: does not exist; aer pki secure-boot"):
        secure_boot.find({"SECURE_BOOT": str(folder)})


def test_a_key_on_a_token_needs_its_certificate_and_a_way_to_the_token(tmp_path: Path) -> None:
    asked = {"SECURE_BOOT": "pkcs11:token=t;object=db"}
    with pytest.raises(BuildError, match="SECURE_BOOT_CERTIFICATE"):
        secure_boot.find(asked)
    certificate = keys(tmp_path, "db.crt") / "db.crt"
    asked["SECURE_BOOT_CERTIFICATE"] = str(certificate)
    with pytest.raises(BuildError, match="p11-kit server"):
        secure_boot.find(asked)
    found = secure_boot.find({**asked, "P11_KIT_SERVER_ADDRESS": "unix:path=/run/p11"})
    assert found is not None
    assert found.files == (certificate,)
    assert found.readable == (certificate, Path("/run"))
    assert found.environment["P11_KIT_SERVER_ADDRESS"] == "unix:path=/run/p11"
    assert "--secureboot-private-key=pkcs11:token=t;object=db" in found.for_ukify()
    assert "--signing-provider=pkcs11" in found.for_ukify()


def test_a_section_is_what_the_program_uses_of_it() -> None:
    header = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    coff = b"PE\0\0" + struct.pack("<HH12xHH", 0x8664, 2, 8, 0) + bytes(8)
    start = len(header) + len(coff) + 80
    table = struct.pack("<8sIIII16x", b".linux", 3, 0, 8, start)
    table += struct.pack("<8sIIII16x", b".cmdline", 9, 0, 4, start + 8)
    found = measure.sections(header + coff + table + b"abcXXXXXwxyz")
    assert found == {".linux": b"abc", ".cmdline": b"wxyz"}
    with pytest.raises(ValueError, match="not a PE file"):
        measure.sections(bytes(128))
