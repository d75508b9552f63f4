"""The debug profile's shells."""

from initd import shell


def test_each_console_that_the_kernel_has_gets_one_the_main_one_first() -> None:
    assert shell.consoles("tty0 ttyS0\n") == ["/dev/ttyS0", "/dev/tty1"]
    assert shell.consoles("ttyS0\n") == ["/dev/ttyS0"]
    assert shell.consoles("ttynull\n") == []
    assert shell.consoles("") == []
