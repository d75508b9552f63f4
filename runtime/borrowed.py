"""What others take from modules when they are imported, and the node hardly ever uses; see
`runtime.imports`."""

from importlib import import_module
from typing import Any, Final

# Of `subprocess`, what asyncio names for its users.
PIPE: Final = -1
STDOUT: Final = -2
DEVNULL: Final = -3


def extract_stack(*arguments: Any, **named: Any) -> Any:
    """That of `traceback`, which gRPC takes for errors of its clients."""
    # Not here, so asking for it loads the module.
    _ = import_module("traceback").StackSummary
    return import_module("traceback").extract_stack(*arguments, **named)
