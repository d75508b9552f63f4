"""pytest fixtures that boot the image in QEMU."""
