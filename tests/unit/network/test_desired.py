"""What the kernel should have, and which changes make it so."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network, ip_address, ip_interface

from initd.network.desired import (
    AddAddress,
    AddRoute,
    RemoveAddress,
    RemoveRoute,
    SetLink,
    changes,
    wanted,
)
from initd.network.model import (
    Address,
    Lease,
    Link,
    LinkSettings,
    Origin,
    Route,
    StaticRoute,
)

LINK = Link(index=2, name="eth0", mac=b"\x02" * 6, mtu=1500, up=True, carrier=True)
ROUTER = IPv4Address("192.0.2.1")
EVERYWHERE = IPv4Network("0.0.0.0/0")
LEASE = Lease(
    address=IPv4Interface("192.0.2.50/24"),
    server=ROUTER,
    obtained=100.0,
    seconds=1000,
    renew=600.0,
    rebind=975.0,
    routes=((EVERYWHERE, ROUTER),),
)
ADDRESS = Address(2, LEASE.address, Origin.DHCP, 1026, 1100.0)
ROUTE = Route(2, EVERYWHERE, ROUTER, Origin.DHCP, 1026, LEASE.address.ip)


def test_a_link_that_is_down_is_set_up_and_nothing_else() -> None:
    link = replace(LINK, up=False)
    assert changes(link, wanted(link, LinkSettings(), None), [], []) == (SetLink(2, up=True),)


def test_a_lease_gives_its_address_before_its_routes() -> None:
    want = wanted(LINK, LinkSettings(), LEASE)
    assert changes(LINK, want, [], []) == (AddAddress(ADDRESS), AddRoute(ROUTE))


def test_what_is_there_already_is_left() -> None:
    want = wanted(LINK, LinkSettings(), LEASE)
    almost = replace(ADDRESS, expires=1099.2)
    assert changes(LINK, want, [almost], [ROUTE]) == ()


def test_a_renewed_lease_changes_the_lifetime_only() -> None:
    want = wanted(LINK, LinkSettings(), replace(LEASE, obtained=600.0))
    later = replace(ADDRESS, expires=1600.0)
    assert changes(LINK, want, [ADDRESS], [ROUTE]) == (AddAddress(later),)


def test_without_the_lease_address_and_routes_are_removed() -> None:
    want = wanted(LINK, LinkSettings(), None)
    assert changes(LINK, want, [ADDRESS], [ROUTE]) == (RemoveRoute(ROUTE), RemoveAddress(ADDRESS))


def test_another_lease_is_there_before_the_old_one_goes() -> None:
    other = replace(LEASE, address=IPv4Interface("192.0.2.60/24"))
    want = wanted(LINK, LinkSettings(), other)
    new_address, new_route = want.addresses[0], want.routes[0]
    assert changes(LINK, want, [ADDRESS], [ROUTE]) == (
        AddAddress(new_address),
        # To the same destination with the same metric: it takes the old one's place.
        AddRoute(new_route),
        RemoveAddress(ADDRESS),
    )


def test_what_others_have_set_is_never_removed() -> None:
    by_router = Address(2, ip_interface("2001:db8::5/64"), Origin.ADVERTISED, 0, 500.0)
    static = Address(2, ip_interface("198.51.100.5/24"), Origin.STATIC, 514)
    route = Route(2, IPv4Network("198.51.100.0/24"), ROUTER, Origin.STATIC, 514)
    want = wanted(LINK, LinkSettings(), None)
    assert changes(LINK, want, [by_router, static], [route]) == ()


def test_static_addresses_and_their_default_routes_go_before_dhcp() -> None:
    settings = LinkSettings(
        addresses=(ip_interface("192.0.2.5/24"), ip_interface("2001:db8::5/64")),
        gateways=(ROUTER, ip_address("fe80::1")),
    )
    want = wanted(LINK, settings, LEASE)
    assert [str(a.interface) for a in want.addresses] == [
        *("192.0.2.5/24", "2001:db8::5/64", "192.0.2.50/24")
    ]
    v4, v6, dhcp = want.routes
    assert (v4.destination, v4.gateway, v4.metric, v4.onlink) == (EVERYWHERE, ROUTER, 514, False)
    assert v6.destination == IPv6Network("::/0")
    assert not v6.onlink
    assert v4.metric < dhcp.metric


def test_a_gateway_outside_of_the_network_is_on_the_link() -> None:
    settings = LinkSettings(addresses=(ip_interface("192.0.2.5/32"),), gateways=(ROUTER,))
    (route,) = wanted(LINK, settings, None).routes
    assert route.onlink
    far = replace(LEASE, address=IPv4Interface("192.0.2.50/32"))
    (route,) = wanted(LINK, LinkSettings(), far).routes
    assert route.onlink


def test_routes_on_the_link_go_before_those_that_need_them() -> None:
    host = IPv4Network("192.0.2.1/32")
    lease = replace(
        LEASE,
        address=IPv4Interface("192.0.2.50/32"),
        routes=((EVERYWHERE, ROUTER), (host, None)),
    )
    first, second = wanted(LINK, LinkSettings(), lease).routes
    assert (first.destination, first.gateway) == (host, None)
    assert (second.gateway, second.onlink) == (ROUTER, False)


def test_two_links_never_have_the_same_metric() -> None:
    other = replace(LINK, index=3, name="eth1")
    settings = LinkSettings()
    (first,) = wanted(LINK, settings, LEASE).routes
    (second,) = wanted(other, settings, LEASE).routes
    assert first.metric < second.metric


def test_the_command_line_mtu_goes_before_that_of_the_lease() -> None:
    lease = replace(LEASE, mtu=1400)
    assert wanted(LINK, LinkSettings(mtu=9000), lease).mtu == 9000
    want = wanted(LINK, LinkSettings(), lease)
    assert SetLink(2, mtu=1400) in changes(LINK, want, [ADDRESS], [ROUTE])
    assert changes(replace(LINK, mtu=1400), want, [ADDRESS], [ROUTE]) == ()


def test_a_mac_is_set_while_the_link_is_down() -> None:
    settings = LinkSettings(mac=b"\x06" * 6, mtu=1400)
    want = wanted(LINK, settings, None)
    assert changes(LINK, want, [], []) == (
        SetLink(2, up=False, mac=b"\x06" * 6),
        SetLink(2, up=True, mtu=1400),
    )
    done = replace(LINK, mac=b"\x06" * 6, mtu=1400)
    assert changes(done, want, [], []) == ()


DOCUMENT = LinkSettings(
    addresses=(ip_interface("192.0.2.5/24"),),
    gateways=(ROUTER,),
    routes=(
        StaticRoute(IPv4Network("10.1.0.0/16"), ip_address("192.0.2.9"), 7),
        StaticRoute(IPv4Network("10.2.0.0/16")),
    ),
    dhcp=False,
    origin=Origin.DOCUMENT,
)


def test_routes_of_the_document_are_those_on_the_link_first_then_the_way_out() -> None:
    routes = wanted(LINK, DOCUMENT, None).routes
    assert [(str(r.destination), r.metric, r.onlink) for r in routes] == [
        ("10.2.0.0/16", 514, False),
        ("10.1.0.0/16", 7, False),
        ("0.0.0.0/0", 514, False),
    ]
    (far,) = wanted(LINK, replace(DOCUMENT, routes=(), onlink=True), None).routes
    assert far.onlink


def test_what_the_document_no_longer_names_is_removed_after_the_new_is_there() -> None:
    before = wanted(LINK, DOCUMENT, None)
    after = wanted(LINK, replace(DOCUMENT, addresses=(ip_interface("192.0.2.6/24"),)), None)
    assert changes(LINK, after, before.addresses, before.routes) == (
        AddAddress(after.addresses[0]),
        RemoveAddress(before.addresses[0]),
    )
    nothing = wanted(LINK, LinkSettings(), None)
    removed = changes(LINK, nothing, before.addresses, before.routes)
    assert removed == (*map(RemoveRoute, before.routes), RemoveAddress(before.addresses[0]))


def test_an_address_in_both_documents_is_not_touched() -> None:
    before = wanted(LINK, DOCUMENT, None)
    more = (*DOCUMENT.addresses, ip_interface("192.0.2.7/24"))
    after = wanted(LINK, replace(DOCUMENT, addresses=more), None)
    found = changes(LINK, after, before.addresses, before.routes)
    assert found == (AddAddress(after.addresses[1]),)


def test_an_ipv6_address_with_another_prefix_length_goes_before_it_comes() -> None:
    one = LinkSettings(addresses=(ip_interface("fd00::5/64"),), origin=Origin.DOCUMENT)
    other = replace(one, addresses=(ip_interface("fd00::5/48"),))
    (before,) = wanted(LINK, one, None).addresses
    (after,) = wanted(LINK, other, None).addresses
    assert changes(LINK, wanted(LINK, other, None), [before], []) == (
        RemoveAddress(before),
        AddAddress(after),
    )


def test_what_routers_said_goes_where_it_is_not_wanted() -> None:
    address = Address(2, ip_interface("2001:db8::5/64"), Origin.ADVERTISED, 0, 500.0)
    router = ip_address("fe80::1")
    route = Route(2, IPv6Network("::/0"), router, Origin.ADVERTISED, 1026)
    off = wanted(LINK, LinkSettings(advertisements=False), None)
    assert changes(LINK, off, [address], [route]) == (RemoveRoute(route), RemoveAddress(address))
    assert changes(LINK, wanted(LINK, LinkSettings(), None), [address], [route]) == ()


def test_a_link_gets_its_usual_mtu_back() -> None:
    link = replace(LINK, mtu=9000)
    assert changes(link, wanted(link, LinkSettings(), None, 1500), [], []) == (
        SetLink(2, mtu=1500),
    )
    assert changes(link, wanted(link, LinkSettings(), None), [], []) == ()
