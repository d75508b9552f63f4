"""All commands, noun by noun, in the order of the help."""

from importlib import import_module
from typing import Final

from aer.command import Command

# Each noun is a module of its name with a table COMMANDS; only those that are needed are imported.
NOUNS: Final = {
    "cell": "make cells and run executables in them",
    "logs": "show the output of an executable",
    "observe": "watch what the node and its workloads say",
    "audit": "see what the node decided, and verify that its log is as it was",
    "discovery": "find out what a node is",
    "health": "ask whether the node serves",
    "auth": "find out who may do what, and change it",
    "node": "take the node down, upgrade, claim or install it, or change what it is known by",
    "image": "write an image to a disk, and sign what nodes are upgraded with",
    "netboot": "boot machines from the network, and sign what they fetch",
    "pki": "make a trust domain and issue SVIDs",
    "completion": "print a script that completes aer's command line",
    "version": "print the version of aer",
}


def commands(noun: str) -> tuple[Command, ...]:
    table: tuple[Command, ...] = import_module(f"aer.{noun}").COMMANDS
    return table
