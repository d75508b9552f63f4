"""The one place where the version of the last release stands: packaging, `--version` and Discover
read it here. In an image it says the image's version (`image/version.py`)."""

from typing import Final

VERSION: Final = "0.1.0"
