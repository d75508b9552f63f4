"""The table of commands against the protos, both ways."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from aer import table
from aer.command import Command
from aer.request import enum_words

ALL = Path(__file__).parents[3] / "proto/gen/all.pb"

# Commands of protocols that are not ours.
FOREIGN = {f"grpc.health.v1.Health.{method}" for method in ("Check", "List", "Watch")}

# Noun of the command line for each package, where it is not the package's own word.
NOUNS = {
    "aurae.cells.v0": "cell",
    "aurae.claim.v0": "node",
    "aurae.identity.v0": "node",
}

# Modules with commands for the noun of another.
SHARED = ("aer.configuration", "aer.identity", "aer.install", "aer.observe", "aer.upgrade")


def methods() -> Iterator[MethodDescriptor]:
    files = descriptor_pb2.FileDescriptorSet.FromString(ALL.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    for file in files.file:
        for service in pool.FindFileByName(file.name).services_by_name.values():
            yield from service.methods


RPCS = {method.full_name: method for method in methods() if method.full_name.startswith("aurae.")}
COMMANDS = [command for noun in table.NOUNS for command in table.commands(noun)]


def named(command: Command) -> str:
    return " ".join(command.words)


def leaves(message: Descriptor, prefix: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """The fields that a command line can fill: messages are entered, but for those with a text."""
    for field in message.fields:
        path = prefix + field.name
        kind = field.message_type
        if kind and kind.file.package != "google.protobuf" and not field.is_repeated:
            yield from leaves(kind, path + ".")
        else:
            yield path, field


def filled(command: Command) -> set[str]:
    given = {path for argument in command.everything() for path in argument.fields}
    return given | command.fixed.keys()


def test_every_rpc_has_a_command_and_every_command_an_rpc() -> None:
    commands = {command.rpc for command in COMMANDS if command.rpc}
    assert commands - FOREIGN == RPCS.keys()


@pytest.mark.parametrize("rpc", RPCS)
def test_every_field_of_a_request_can_be_given(rpc: str) -> None:
    wanted = {path for path, _ in leaves(RPCS[rpc].input_type)}
    full = [command for command in COMMANDS if command.rpc == rpc and filled(command) >= wanted]
    assert full, f"no command of {rpc} fills all of {sorted(wanted)}"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.rpc in RPCS], ids=named)
def test_every_field_that_a_command_fills_exists(command: Command) -> None:
    known = {path for path, _ in leaves(RPCS[command.rpc].input_type)}
    assert filled(command) <= known


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.rpc in RPCS], ids=named)
def test_the_choices_of_a_command_are_the_enums(command: Command) -> None:
    fields = dict(leaves(RPCS[command.rpc].input_type))
    for argument in command.arguments:
        for path in argument.fields:
            if enum := fields[path].enum_type:
                assert argument.choices == enum_words(enum)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.rpc in RPCS], ids=named)
def test_a_noun_is_the_word_of_its_package(command: Command) -> None:
    package, _, _ = command.rpc.rpartition(".v0.")
    package += ".v0"
    if len(command.words) > 1:
        assert command.words[0] == NOUNS.get(package, package.split(".")[1])


@pytest.mark.parametrize("noun", table.NOUNS)
def test_a_noun_is_a_module_of_its_name(noun: str) -> None:
    for command in table.commands(noun):
        assert command.words[0] == noun
        assert command.run.__module__ in {f"aer.{noun}", *SHARED}
