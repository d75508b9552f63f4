"""The data disk: which one it is, when it is looked for, and what is in it afterwards."""

import stat
from pathlib import Path

import pytest

from initd.boot import data
from initd.boot.cmdline import parse
from initd.boot.data import Search, Teller
from initd.boot.disks import NotThere
from initd.boot.options import DataOptions


def ext4(path: Path, label: bytes) -> Path:
    """As much of a file system as its label takes."""
    block = bytearray(4096)
    block[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
    block[1024 + 0x78 : 1024 + 0x88] = label.ljust(16, b"\0")
    path.write_bytes(block)
    return path


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("", {"vda", "vdb1"}),
        ("LABEL=aurae-data", {"vda"}),
        ("LABEL=other", {"vdb"}),
        ("PARTLABEL=aurae-data", {"vdb1"}),
        ("/dev/vdc", {"vdc"}),
        ("/dev/vd", set()),
    ],
)
def test_a_disk_is_known_by_its_label_its_partition_or_its_name(
    tmp_path: Path, wanted: str, found: set[str]
) -> None:
    ext4(tmp_path / "vda", b"aurae-data")
    ext4(tmp_path / "vdb", b"other")
    ext4(tmp_path / "loop0", b"aurae-data")
    (tmp_path / "vdc").write_bytes(bytes(4096))
    devices = [
        {"DEVNAME": "vda", "DEVTYPE": "disk"},
        {"DEVNAME": "vdb", "DEVTYPE": "disk"},
        {"DEVNAME": "vdb1", "DEVTYPE": "partition", "PARTNAME": "aurae-data", "DISK": "vdb"},
        {"DEVNAME": "vdc", "DEVTYPE": "disk"},
        {"DEVNAME": "loop0", "DEVTYPE": "disk"},
    ]
    chosen = {d["DEVNAME"] for d in devices if data.matches(d, wanted, str(tmp_path))}
    assert chosen == found


def test_drivers_are_loaded_for_whom_does_not_know_who_it_is(tmp_path: Path) -> None:
    none = DataOptions()
    assert data.search(none, str(tmp_path)) == Search("", 0.0, drivers=True)
    (tmp_path / "aurae.cells.json").touch()
    assert data.search(none, str(tmp_path)) == Search("", 0.0, drivers=True)
    (tmp_path / "aurae.node.key").touch()
    assert data.search(none, str(tmp_path)) == Search("", 0.0, drivers=False)
    asked = data.search(parse("aurae.data=LABEL=mine").data, str(tmp_path))
    assert asked == Search("LABEL=mine", data.PATIENCE, drivers=True)
    assert data.search(parse("aurae.data=off").data, str(tmp_path)) is None


def test_the_command_line_names_a_disk() -> None:
    for value in ("off", "LABEL=a b", "PARTLABEL=aurae-data", "/dev/vda1"):
        assert parse(f'aurae.data="{value}"').data == DataOptions(value)
    for value in ("", "vda", "UUID=1", "yes", "LABEL=", "/dev/"):
        parsed = parse(f"aurae.data={value}")
        assert parsed.data == DataOptions(makes=False)
        assert parsed.problems[0].startswith(f"aurae.data={value}: must be off, LABEL=")
    assert parse("aurae.unclaim").unclaim
    assert not parse("aurae.unclaim=no").unclaim
    assert parse("aurae.unclaim=no").problems
    assert parse("aurae.emergency").emergency


def test_nothing_is_waited_for_where_there_is_no_disk(tmp_path: Path) -> None:
    block = tmp_path / "block"
    for name in ("pmem0", "loop0"):
        (block / name).mkdir(parents=True)
        (block / name / "uevent").write_text(f"DEVNAME={name}\nDEVTYPE=disk\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "aurae.ca.crt").touch()
    done = data.place(DataOptions(), say=print, folder=str(block), credentials=str(credentials))
    assert (done.text, done.problems) == ("none", ())


def test_folders_are_made_once_and_kept(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir(mode=0o777)
    (tmp_path / "lib/kept").write_text("before")
    for _ in range(2):
        data.make_folders(str(tmp_path))
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
        if path.is_dir() and not path.is_symlink()
    }
    assert modes == {
        "lib": 0o755,
        "lib/aurae": 0o700,
        "log": 0o755,
        "cache": 0o755,
        "tmp": 0o1777,
    }
    assert (tmp_path / "run").readlink() == Path("../run")
    assert (tmp_path / "lib/kept").read_text() == "before"


def test_who_a_node_is_and_its_policy_are_moved_away_together(tmp_path: Path) -> None:
    data.unclaim(str(tmp_path))
    assert not list(tmp_path.iterdir())
    for number in (1, 2):
        (tmp_path / "identity").mkdir()
        (tmp_path / "identity/node.key").write_text(f"key {number}")
        (tmp_path / "policy.json").write_text("{}")
        (tmp_path / "audit").mkdir(exist_ok=True)
        data.unclaim(str(tmp_path))
        assert not (tmp_path / "identity").exists()
        assert not (tmp_path / "policy.json").exists()
        assert (tmp_path / "audit").is_dir()
        aside = tmp_path / f"unclaimed.{number}"
        assert (aside / "identity/node.key").read_text() == f"key {number}"
        assert (aside / "policy.json").exists()


@pytest.mark.parametrize(
    ("modalias", "storage"),
    [
        ("virtio:d00000002v00001AF4", True),
        ("virtio:d00000001v00001AF4", False),
        ("pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00", True),
        ("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", True),
        ("pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00", False),
        ("pci:v00001B36d0000000Dsv00001AF4sd00001100bc0Csc03i30", True),
        ("acpi:PNP0C0C:", False),
    ],
)
def test_what_disks_are_reached_by_is_known(modalias: str, storage: bool) -> None:
    assert data.is_storage(modalias) is storage


def test_a_copy_tells_what_it_found_or_what_prevents_that() -> None:
    heard: list[str] = []
    teller = Teller(lambda text: heard.append(f"say {text}"), heard.append)

    def told(own: Teller) -> str:
        own.say("making ext4")
        own.warn("two\nlines")
        return "/dev/vda"

    assert data._in_copy(told, 10, teller) == "/dev/vda"
    assert heard == ["say making ext4", "two lines"]

    def missing(_: Teller) -> str:
        raise NotThere("LABEL=a: not found")

    def failing(_: Teller) -> str:
        raise OSError(5, "Input/output error", "/dev/vda")

    def broken(_: Teller) -> str:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(NotThere, match="LABEL=a: not found"):
        data._in_copy(missing, 10, teller)
    with pytest.raises(NotThere, match="/dev/vda: Input/output error"):
        data._in_copy(failing, 10, teller)
    with pytest.raises(NotThere, match="ended before it was done"):
        data._in_copy(broken, 10, teller)


def test_a_disk_that_does_not_answer_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import signal

    monkeypatch.setattr(data, "MOUNTING", 0.2)

    def stuck(_: Teller) -> str:
        signal.alarm(30)
        signal.pause()
        return ""

    with pytest.raises(NotThere, match="does not answer"):
        data._in_copy(stuck, 0.0, Teller(print, print))
