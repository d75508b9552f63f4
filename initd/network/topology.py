"""Which links lie on which, and the changes that make it so. Nothing here does anything.

What cannot be done yet, because a parent or port is not there, is left out: it is due when the
link appears.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final

from initd.network.cmdline import explicit_settings
from initd.network.codec import AnyLink
from initd.network.desired import (
    Change,
    CreateLink,
    RemoveLink,
    RenameLink,
    SetLink,
    SetMaster,
    SetOptions,
)
from initd.network.model import LinkSettings, Settings, Virtual

# What cannot be changed in a link that is there: it is made anew.
FIXED: Final = frozenset(("id", "mode", "lacp-rate"))
# The kernel puts a number that is free.
ANY_NAME: Final = "eth%d"


def settings_of(
    command_line: Settings,
    document: Settings,
    names: Collection[str],
    hardware: Mapping[str, bytes] | None = None,
) -> dict[str, LinkSettings]:
    """What each link is to have; `names` in the order of their appearance, `hardware` has the
    addresses of cards: the document may mean another card by that name.

    An `ip=` for a link goes before what the document says of its addresses, and that before an
    `ip=` for all links. Ports have no addresses, so an `ip=` without a device is for no port.
    """
    by_document = {link.device: link for link in document.links}
    ports = master_names(document)
    explicit = explicit_settings(command_line, list(names), [n for n in names if n not in ports])
    found = {}
    for name in names:
        documented = by_document.get(name)
        if documented and documented.match and documented.match != (hardware or {}).get(name):
            documented = None
        settings = explicit.get(name) or documented or command_line.default
        found[name] = replace(settings, virtual=documented.virtual if documented else None)
    return found


def master_names(document: Settings) -> dict[str, str]:
    """Of each port, the link whose port it is."""
    return {
        port: link.device
        for link in document.links
        if link.virtual and link.device
        for port in link.virtual.ports
    }


def in_order(document: Settings) -> list[str]:
    """All names of the document and those that they lie on: what lies on others comes after."""
    below = {link.device: link.virtual.below if link.virtual else () for link in document.links}
    ordered: dict[str, None] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in ordered or name in above:
            return
        for other in below.get(name, ()):
            add(other, (*above, name))
        ordered[name] = None

    for link in document.links:
        if link.device:
            add(link.device, ())
    return list(ordered)


def arrange(
    document: Settings, links: Collection[AnyLink], kept: Collection[str]
) -> tuple[tuple[str, Change], ...]:
    """Changes with the name of the link that each is about, in the order of their doing.

    `links` are the physical ones and those that we made. Those in `kept` become no ports.
    """
    return tuple(_Arrangement(document, links, kept).changes())


class _Arrangement:
    def __init__(
        self, document: Settings, links: Collection[AnyLink], kept: Collection[str]
    ) -> None:
        self._document = document
        self._wanted = {link.device: link for link in document.links if link.device}
        self._links = links
        self._by_name = {one.link.name: one for one in links}
        self._by_index = {one.link.index: one for one in links}
        self._kept = kept

    def changes(self) -> Iterator[tuple[str, Change]]:
        yield from self._renamed()
        removed = [one for one in self._links if one.ours and not self._stays(one)]
        yield from ((one.link.name, RemoveLink(one.link.index)) for one in removed)
        for name in in_order(self._document):
            settings = self._wanted.get(name)
            if settings is None or settings.virtual is None:
                continue
            one = self._by_name.get(name)
            if one is None or not one.ours:
                yield from self._created(settings, settings.virtual)
            elif self._is(one, settings.virtual):
                yield from self._ports(one, settings.virtual)
                yield from self._options(one, settings.virtual)
        yield from self._released()

    def _renamed(self) -> Iterator[tuple[str, Change]]:
        for name, settings in self._wanted.items():
            one = self._card(settings.match) if settings.match else None
            if one is None or one.link.name == name:
                continue
            holder = self._by_name.get(name)
            if holder is not None and holder.physical:
                yield name, RenameLink(holder.link.index, ANY_NAME)
            yield one.link.name, RenameLink(one.link.index, name)

    def _card(self, mac: bytes) -> AnyLink | None:
        return next((one for one in self._links if one.physical and one.hardware == mac), None)

    def _stays(self, one: AnyLink) -> bool:
        settings = self._wanted.get(one.link.name)
        return (
            settings is not None
            and settings.virtual is not None
            and self._is(one, settings.virtual)
        )

    def _is(self, one: AnyLink, virtual: Virtual) -> bool:
        """Whether it can become what is wanted without being made anew."""
        fixed = {name: value for name, value in virtual.options if name in FIXED}
        if one.kind != virtual.kind or not fixed.items() <= dict(one.options).items():
            return False
        if virtual.parent is None:
            return True
        parent = self._by_name.get(virtual.parent)
        return parent is not None and parent.link.index == one.parent

    def _created(self, settings: LinkSettings, virtual: Virtual) -> Iterator[tuple[str, Change]]:
        assert settings.device is not None
        parent = None
        if virtual.parent is not None:
            lower = self._by_name.get(virtual.parent)
            if lower is None:
                return
            parent = lower.link.index
        made = CreateLink(settings.device, virtual.kind, virtual.options, parent, settings.mac)
        yield settings.device, made

    def _ports(self, master: AnyLink, virtual: Virtual) -> Iterator[tuple[str, Change]]:
        for name in virtual.ports:
            one = self._by_name.get(name)
            if one is None or name in self._kept:
                continue
            if one.master != master.link.index:
                # A bridge that somebody else has put it into keeps it.
                if one.master == 0 or one.master in self._by_index:
                    yield name, SetMaster(one.link.index, master.link.index)
                continue
            settings = self._wanted.get(name)
            mtu = settings.mtu if settings and master.kind == "bridge" else None
            mtu = mtu if mtu != one.link.mtu else None
            if mtu or not one.link.up:
                yield name, SetLink(one.link.index, up=None if one.link.up else True, mtu=mtu)

    def _options(self, one: AnyLink, virtual: Virtual) -> Iterator[tuple[str, Change]]:
        have = dict(one.options)
        for name, value in virtual.options:
            if have.get(name) != value:
                yield one.link.name, SetOptions(one.link.index, virtual.kind, ((name, value),))
        primary = self._by_name.get(virtual.primary) if virtual.primary else None
        # The kernel takes a port only.
        if primary is not None and primary.master == one.link.index:
            index = primary.link.index
            if have.get("primary") != index:
                change = SetOptions(one.link.index, virtual.kind, (("primary", index),))
                yield one.link.name, change

    def _released(self) -> Iterator[tuple[str, Change]]:
        masters = master_names(self._document)
        for one in self._links:
            master = self._by_index.get(one.master)
            # With a link that is removed its ports are let go, and it is one no longer.
            if master is None or not master.ours or not self._stays(master):
                continue
            if one.ours and not self._stays(one):
                continue
            if masters.get(one.link.name) != master.link.name or one.link.name in self._kept:
                yield one.link.name, SetMaster(one.link.index, 0)
