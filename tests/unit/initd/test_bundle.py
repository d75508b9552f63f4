"""The OCI bundle: what is in it, and what is not."""

import json
import os
from pathlib import Path

import pytest

from initd import bundle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small root of Aurae's kind."""
    root = tmp_path / "root"
    for folder in ("usr/bin", "usr/lib/modules/6.12", "etc", "run", "boot", "tmp"):
        (root / folder).mkdir(parents=True)
    (root / "usr/bin/init").write_text("#!init")
    (root / "usr/bin/init").chmod(0o755)
    (root / "usr/lib/os-release").write_text('NAME="Aurae"\nID=aurae\n')
    (root / "usr/lib/modules/6.12/big.ko").write_text("x")
    (root / "boot/vmlinuz").write_text("x")
    (root / "bin").symlink_to("usr/bin")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "run/secret").write_text("x")
    return root


def test_the_bundle_has_the_root_without_what_only_a_machine_needs(
    root: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "bundle"
    bundle.write(output, root)
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "rootfs"]
    assert (output / "rootfs/usr/bin/init").stat().st_mode & 0o777 == 0o755
    assert (output / "rootfs/bin").readlink() == Path("usr/bin")
    assert not (output / "rootfs/usr/lib/modules").exists()
    assert not (output / "rootfs/boot").exists()
    # Nothing of the machine.
    assert (output / "rootfs/etc/machine-id").read_text() == ""
    assert list((output / "rootfs/run").iterdir()) == []
    missing = [target for target, _, _ in bundle.MOUNTS if target.count("/") == 1]
    assert [m for m in missing if not (output / f"rootfs{m}").is_dir()] == []
    assert json.loads((output / "config.json").read_text()) == bundle.config()
    assert [path.name for path in output.parent.iterdir()] == ["bundle"]


def test_the_configuration_says_what_auraed_relies_on_in_a_container() -> None:
    config = bundle.config()
    assert config["process"]["args"] == [bundle.INIT]
    # By this auraed knows that it is in one.
    assert "container=oci" in config["process"]["env"]
    assert config["root"] == {"path": "rootfs", "readonly": True}
    cgroup = next(m for m in config["mounts"] if m["destination"] == "/sys/fs/cgroup")
    assert "rw" in cgroup["options"]
    assert {"type": "cgroup"} in config["linux"]["namespaces"]


def test_only_an_aurae_root_becomes_a_bundle_and_nothing_is_replaced(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(bundle.Unusable, match="is no Aurae root"):
        bundle.write(tmp_path / "bundle", tmp_path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(bundle.Unusable, match="exists"):
        bundle.write(tmp_path / "taken", root)
    assert os.listdir(tmp_path / "taken") == []  # noqa: PTH208


def test_a_bundle_that_cannot_be_finished_leaves_nothing(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "etc/pipe")
    with pytest.raises(OSError, match="named pipe"):
        bundle.write(tmp_path / "bundle", root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]
