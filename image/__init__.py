"""Host side: how the image is built, overlaid and booted."""
