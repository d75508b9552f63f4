"""Requests filled from arguments, as the descriptors say."""

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

from aer.errors import UsageError

if TYPE_CHECKING:
    from aer.command import Argument


def fill(message: Message, argument: "Argument", value: Any) -> None:
    """Put the value of `argument` into its fields of `message`; None stays absent.

    Raises UsageError where the wire cannot carry the value.
    """
    values = value if len(argument.fields) > 1 else (value,)
    for path, each in zip(argument.fields, values, strict=bool(argument.fields)):
        if each is None:
            continue
        try:
            _set(message, path, each)
        except (ValueError, TypeError) as e:
            raise UsageError(f"{argument.name}: {e}") from e


def _set(message: Message, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    field = message.DESCRIPTOR.fields_by_name[last]
    kind = field.message_type
    if kind and kind.GetOptions().map_entry:
        getattr(message, last).update(dict(value))
    elif field.is_repeated:
        getattr(message, last).extend(value)
    elif kind and kind.full_name == "google.protobuf.Duration":
        getattr(message, last).FromNanoseconds(round(value * 1_000_000_000))
    elif enum := field.enum_type:
        setattr(message, last, enum.values_by_name[_prefix(enum) + value.upper()].number)
    else:
        setattr(message, last, value)


def enum_words(enum: EnumDescriptor) -> tuple[str, ...]:
    """The values of an enum as the command line has them: `SHUTDOWN_MODE_HALT` is `halt`."""
    names = (value.name for value in enum.values if value.number)
    return tuple(name.removeprefix(_prefix(enum)).lower() for name in names)


def _prefix(enum: Any) -> str:
    """What every name of the enum begins with: the enum's own, as protobuf's style has it."""
    zero: str = enum.values_by_number[0].name
    return zero.removesuffix("UNSPECIFIED")
