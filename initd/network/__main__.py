"""`python -m initd.network`: the service, as PID 1 starts it."""

import logging
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final, NoReturn

from initd.linux import prctl
from initd.network.cmdline import parse
from initd.network.network import Network, Places

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


class Line(logging.Formatter):
    """As PID 1 writes its own: it adds the time and the name of the service to what we say."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return f"{record.levelname.lower()}: {line}" if record.levelno >= logging.WARNING else line


def main(arguments: Sequence[str] | None = None) -> None:
    prctl.set_name("auraed-network")
    places = Places(**_folders(sys.argv[1:] if arguments is None else arguments))
    command_line = places.cmdline.read_text()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Line())
    logging.basicConfig(handlers=[handler], level=_level(command_line))
    signal.signal(signal.SIGTERM, _terminated)
    parsed = parse(command_line)
    for problem in parsed.problems:
        logging.warning("%s", problem)
    Network(parsed.settings, places).run()


def _folders(arguments: Sequence[str]) -> dict[str, Path]:
    """`--run FOLDER` and the like. argparse would be a tenth of our memory."""
    pairs = zip(arguments[::2], arguments[1::2], strict=False)
    given = {option.removeprefix("--"): Path(value) for option, value in pairs}
    unknown = given.keys() - {field.name for field in fields(Places)}
    if unknown or len(arguments) % 2:
        names = " ".join(f"[--{field.name} {field.default}]" for field in fields(Places))
        sys.exit(f"usage: initd.network {names}")
    return given


def _level(command_line: str) -> int:
    words = re.findall(r"(?:^|\s)aurae\.log=(\S+)", command_line)
    return LEVELS.get(words[-1], logging.INFO) if words else logging.INFO


def _terminated(_number: int, _frame: object) -> NoReturn:
    """Leave everything as it is: the next run goes on from there."""
    raise SystemExit(0)


if __name__ == "__main__":
    main()
