from pathlib import Path

import pytest

from runtime.server import peers


@pytest.mark.parametrize(
    ("name", "read"),
    [(b"web/_server", "web/_server"), (b"web/\xff\xfe", "web/\ufffd\ufffd"), (b"a\rb", "a\rb")],
)
def test_a_cgroup_with_any_name_is_read_to_its_end(tmp_path: Path, name: bytes, read: str) -> None:
    (tmp_path / "cgroup").write_bytes(b"1:name=x:/\n0::/aurae/" + name + b"\n")
    assert peers.cgroup(tmp_path) == f"/aurae/{read}"
