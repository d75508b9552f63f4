"""Which links are made, moved and removed, and in which order."""

from dataclasses import replace

from initd.network.codec import OURS, AnyLink
from initd.network.desired import (
    Change,
    CreateLink,
    RemoveLink,
    RenameLink,
    SetLink,
    SetMaster,
    SetOptions,
)
from initd.network.model import Link, LinkSettings, Settings, Virtual
from initd.network.topology import arrange, in_order, settings_of

BOND = (("mode", 1), ("miimon", 100))


def mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number))


def card(index: int, name: str, *, master: int = 0, up: bool = True) -> AnyLink:
    link = Link(index, name, mac(index), 1500, up=up, carrier=up)
    return AnyLink(link, None, True, master, permanent=mac(index), physical=True)


def made(
    index: int,
    name: str,
    kind: str,
    *options: tuple[str, int],
    parent: int = 0,
    master: int = 0,
) -> AnyLink:
    link = Link(index, name, mac(index), 1500, up=True, carrier=True)
    return AnyLink(link, kind, True, master, parent, OURS, options=options)


def bond(name: str = "bond0", *ports: str, primary: str | None = None) -> LinkSettings:
    return virtual(name, Virtual(kind="bond", ports=ports, options=BOND, primary=primary))


def bridge(name: str, *ports: str) -> LinkSettings:
    return virtual(name, Virtual(kind="bridge", ports=ports, options=(("stp", 0),)))


def vlan(name: str, parent: str, number: int) -> LinkSettings:
    return virtual(name, Virtual(kind="vlan", parent=parent, options=(("id", number),)))


def virtual(name: str, what: Virtual) -> LinkSettings:
    return LinkSettings(device=name, virtual=what)


def document(*links: LinkSettings) -> Settings:
    return Settings(links=links)


def arranged(wanted: Settings, *links: AnyLink, kept: tuple[str, ...] = ()) -> list[Change]:
    return [change for _, change in arrange(wanted, links, kept)]


ETH0, ETH1 = card(2, "eth0"), card(3, "eth1")


def test_links_come_after_those_that_they_lie_on() -> None:
    wanted = document(bridge("br0", "v5"), vlan("v5", "bond0", 5), bond("bond0", "eth0", "eth1"))
    assert in_order(wanted) == ["eth0", "eth1", "bond0", "v5", "br0"]


def test_a_cycle_ends() -> None:
    assert in_order(document(vlan("a", "b", 1), vlan("b", "a", 2))) == ["b", "a"]


def test_what_is_not_there_is_made_when_it_can_be() -> None:
    wanted = document(vlan("v5", "bond0", 5), bond("bond0", "eth0"))
    made_bond = CreateLink("bond0", "bond", BOND)
    assert arranged(wanted, ETH0) == [made_bond]
    there = made(9, "bond0", "bond", *BOND)
    assert arranged(wanted, ETH0, there) == [
        SetMaster(2, 9),
        CreateLink("v5", "vlan", (("id", 5),), 9),
    ]


def test_a_port_that_is_not_there_is_waited_for() -> None:
    there = made(9, "bond0", "bond", *BOND)
    assert arranged(document(bond("bond0", "eth0", "eth7")), replace(ETH0, master=9), there) == []


def test_what_is_as_wanted_is_left() -> None:
    wanted = document(vlan("v5", "bond0", 5), bond("bond0", "eth0"), bridge("br0", "v5"))
    links = (
        card(2, "eth0", master=9),
        made(9, "bond0", "bond", *BOND),
        made(10, "v5", "vlan", ("id", 5), parent=9, master=11),
        made(11, "br0", "bridge", ("stp", 0)),
    )
    assert arranged(wanted, *links) == []


def test_what_nobody_names_any_more_is_removed_and_its_ports_are_let_go() -> None:
    there = made(9, "bond0", "bond", *BOND)
    # The kernel lets its port go.
    assert arranged(document(), card(2, "eth0", master=9), there) == [RemoveLink(9)]
    vlan_5 = made(10, "v5", "vlan", ("id", 5), parent=2, master=11)
    kept = made(11, "br0", "bridge", ("stp", 0))
    assert arranged(document(bridge("br0")), ETH0, vlan_5, kept) == [RemoveLink(10)]
    wanted = document(bond("bond0", "eth1"))
    links = (card(2, "eth0", master=9), card(3, "eth1", master=9), there)
    assert arranged(wanted, *links) == [SetMaster(2, 0)]


def test_what_others_made_is_neither_removed_nor_taken_for_ours() -> None:
    theirs = replace(made(9, "bond0", "bond", *BOND), group=0)
    assert arranged(document(), theirs) == []
    # The kernel will say that there is one.
    assert arranged(document(bond("bond0", "eth0")), ETH0, theirs) == [
        CreateLink("bond0", "bond", BOND)
    ]


def test_a_card_in_somebody_elses_bridge_stays_there() -> None:
    there = made(9, "bond0", "bond", *BOND)
    assert arranged(document(bond("bond0", "eth0")), card(2, "eth0", master=44), there) == []


def test_a_port_moves_from_one_of_ours_to_another() -> None:
    links = (card(2, "eth0", master=9), made(9, "a", "bridge"), made(10, "b", "bridge"))
    wanted = document(bridge("a"), bridge("b", "eth0"))
    assert SetMaster(2, 10) in arranged(wanted, *links)


def test_a_card_that_the_command_line_names_is_no_port() -> None:
    there = made(9, "bond0", "bond", *BOND)
    wanted = document(bond("bond0", "eth0", "eth1"))
    assert arranged(wanted, ETH0, ETH1, there, kept=("eth0",)) == [SetMaster(3, 9)]
    links = (card(2, "eth0", master=9), card(3, "eth1", master=9), there)
    assert arranged(wanted, *links, kept=("eth0",)) == [SetMaster(2, 0)]


def test_what_the_kernel_cannot_change_is_made_anew() -> None:
    vlan_4 = made(9, "v", "vlan", ("id", 4), parent=2)
    assert arranged(document(vlan("v", "eth0", 5)), ETH0, vlan_4) == [RemoveLink(9)]
    assert arranged(document(vlan("v", "eth1", 4)), ETH0, ETH1, vlan_4) == [RemoveLink(9)]
    assert arranged(document(bridge("v")), ETH0, vlan_4) == [RemoveLink(9)]
    other_mode = made(9, "bond0", "bond", ("mode", 4), ("miimon", 100))
    assert arranged(document(bond("bond0", "eth0")), ETH0, other_mode) == [RemoveLink(9)]


def test_other_options_are_changed_in_place() -> None:
    slow = made(9, "bond0", "bond", ("mode", 1), ("miimon", 500))
    assert arranged(document(bond("bond0", "eth7")), slow) == [
        SetOptions(9, "bond", (("miimon", 100),))
    ]
    loud = made(9, "br0", "bridge", ("stp", 1))
    assert arranged(document(bridge("br0")), loud) == [SetOptions(9, "bridge", (("stp", 0),))]


def test_a_port_is_preferred_once_it_is_one() -> None:
    wanted = document(bond("bond0", "eth0", primary="eth0"))
    there = made(9, "bond0", "bond", *BOND)
    assert arranged(wanted, ETH0, there) == [SetMaster(2, 9)]
    port = card(2, "eth0", master=9)
    assert arranged(wanted, port, there) == [SetOptions(9, "bond", (("primary", 2),))]
    assert arranged(wanted, port, made(9, "bond0", "bond", *BOND, ("primary", 2))) == []


def test_ports_of_a_bridge_are_up_and_have_their_own_mtu() -> None:
    down = card(2, "eth0", master=9, up=False)
    there = made(9, "br0", "bridge", ("stp", 0))
    wanted = document(bridge("br0", "eth0"), LinkSettings(device="eth0", mtu=9000))
    assert arranged(wanted, down, there) == [SetLink(2, up=True, mtu=9000)]


def test_a_card_gets_its_name_by_its_address_even_if_another_has_it() -> None:
    wanted = document(LinkSettings(device="lan", match=mac(2)))
    assert arranged(wanted, ETH0, ETH1) == [RenameLink(2, "lan")]
    swapped = document(LinkSettings(device="eth0", match=mac(3)))
    assert arranged(swapped, ETH0, ETH1) == [RenameLink(2, "eth%d"), RenameLink(3, "eth0")]
    # As a port of a bond it has another address, but is still the same card.
    port = card(2, "lan", master=9)
    port = replace(port, link=replace(port.link, mac=mac(77)))
    assert arranged(wanted, port) == []


def settings(command_line: Settings, wanted: Settings, *names: str) -> dict[str, LinkSettings]:
    return settings_of(command_line, wanted, names, {"eth0": mac(2), "eth1": mac(3)})


def test_ip_for_a_link_goes_before_the_document_and_that_before_ip_for_all() -> None:
    of_document = LinkSettings(device="eth0", mtu=1400)
    by_name = LinkSettings(device="eth0", mtu=1300)
    for_all = LinkSettings(dhcp=False)
    wanted = document(of_document)
    assert settings(Settings(), wanted, "eth0")["eth0"] == of_document
    assert settings(Settings(links=(by_name,)), wanted, "eth0")["eth0"] == by_name
    found = settings(Settings(default=for_all), wanted, "eth0", "eth1")
    assert found == {"eth0": of_document, "eth1": for_all}


def test_ip_without_a_device_is_for_the_first_link_that_is_no_port() -> None:
    first = LinkSettings(mtu=1300)
    wanted = document(bond("bond0", "eth0", "eth1"))
    found = settings(Settings(links=(first,)), wanted, "eth0", "eth1", "bond0")
    assert [name for name, one in found.items() if one.mtu == 1300] == ["bond0"]
    assert found["bond0"].virtual == wanted.links[0].virtual


def test_what_is_meant_for_another_card_is_not_for_this_one() -> None:
    wanted = document(LinkSettings(device="eth0", match=mac(9), dhcp=False))
    assert settings(Settings(), wanted, "eth0")["eth0"].dhcp
