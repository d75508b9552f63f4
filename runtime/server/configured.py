"""Makes the node's configuration from the parts that it has to do with."""

import json
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from initd.configuration.tables import Problem
from initd.errors import AuraedError
from runtime.configuration.configurations import Configurations
from runtime.policy import document, model
from runtime.policy.policies import Policies
from runtime.server import boot
from runtime.server.settings import Settings

GUEST: Final = "is not this node's own; change it on the host, or give options to auraed"


def make(
    settings: Settings, policies: Policies, trust_domain: Callable[[], str | None]
) -> Configurations:
    def check_policy(given: Any) -> Iterable[Problem]:
        try:
            policy = document.from_json(json.dumps(given))
            if (own := trust_domain()) is not None:
                model.refuse_lockout(policy, own)
        except AuraedError as e:
            yield _problem("policy", str(e))

    def above(values: Mapping[str, Any]) -> Iterable[Problem]:
        files = {
            "policy": (settings.policy, settings.boot_policy),
            "cells": (settings.sets[0] if settings.sets[0] != settings.configured else None,),
            "identity": (settings.identity / "node.crt",),
        }
        for key, paths in files.items():
            for path in paths:
                if key in values and path is not None and path.exists():
                    yield Problem(key, f"is hidden: {path} goes before")
                    break

    return Configurations(
        settings.run,
        settings.state,
        lasting=settings.state == settings.disk,
        above=above,
        checks={"policy": check_policy, "cells": _check_cells},
        on_change=policies.reread,
        restart=lambda: signal.raise_signal(signal.SIGTERM),
        cmdline=str(settings.cmdline),
        refusal="" if settings.configurable else GUEST,
    )


def _check_cells(given: Any) -> Iterable[Problem]:
    try:
        entries = list(boot.read(json.dumps(given)))
    except ValueError as e:
        yield Problem("cells", str(e))
        return
    for entry in entries:
        try:
            entry.value()
        except AuraedError as e:
            yield Problem(f"cells.{entry.name}", str(e))


def _problem(key: str, message: str) -> Problem:
    """Messages about a part begin with its path already."""
    path, _, rest = message.partition(": ")
    return Problem(path, rest) if path.startswith(key) and rest else Problem(key, message)
