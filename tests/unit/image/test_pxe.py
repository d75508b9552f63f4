from image import pxe


def test_the_script_names_its_files_without_a_place() -> None:
    lines = pxe.script("1.2", "aurae_1.2.vmlinuz", "aurae_1.2.initramfs").splitlines()
    assert lines[0] == "#!ipxe"
    kernel = next(line for line in lines if line.startswith("kernel "))
    assert kernel.split()[1] == "aurae_1.2.vmlinuz"
    assert "initrd --name initramfs aurae_1.2.initramfs" in lines
    assert "://" not in "".join(lines)


def test_the_users_arguments_come_last_and_may_be_set_by_another_script() -> None:
    text = pxe.script("1.2", "k", "i")
    assert "isset ${append} || set append\n" in text
    assert next(line for line in text.splitlines() if line.startswith("kernel ")).endswith(
        " ${append}"
    )


def test_the_root_inside_has_a_ramfs() -> None:
    assert "rootfstype=ramfs" in pxe.CMDLINE.split()


def test_the_room_for_arguments_is_within_what_the_kernel_takes() -> None:
    assert len(pxe.CMDLINE) < pxe.ROOM < 2048
