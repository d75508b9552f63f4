"""The one place where the version stands: packaging, `--version` and Discover read it here."""

from typing import Final

VERSION: Final = "0.1.0"
