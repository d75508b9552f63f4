"""What a build fails with."""


class BuildError(Exception):
    """A step of the build failed. The message says which, why, and what to do."""
