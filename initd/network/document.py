"""The table `[network]` of a node's configuration: what may stand there, and what it means."""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from re import fullmatch
from types import MappingProxyType
from typing import Any, Final

from initd.configuration.tables import (
    Boolean,
    Either,
    Integer,
    Items,
    Key,
    Problem,
    Table,
    Tables,
    Text,
    join,
    read,
)
from initd.network.domains import is_domain
from initd.network.model import (
    IPAddress,
    IPInterface,
    IPNetwork,
    LinkSettings,
    Origin,
    Settings,
    StaticRoute,
    Virtual,
)

Values = Mapping[str, Any]
NOTHING: Final[Values] = MappingProxyType({})

NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}"
# The first four have a meaning in /proc/sys/net, or are files beside those of the links here and
# in /sys/class/net.
RESERVED: Final = ("all", "default", "lo", "status", "bonding_masters")
DEFAULT: Final = "default"
# IPv6 is not on a link with less (RFC 8200 section 5).
LEAST_MTU_6: Final = 1280

# As include/uapi/linux/if_bonding.h counts them.
MODES: Final = {
    "balance-rr": 0,
    "active-backup": 1,
    "balance-xor": 2,
    "broadcast": 3,
    "802.3ad": 4,
    "balance-tlb": 5,
    "balance-alb": 6,
}
HASH_POLICIES: Final = {"layer2": 0, "layer3+4": 1, "layer2+3": 2}
LACP_RATES: Final = {"slow": 0, "fast": 1}
# Modes in which an option has a meaning; with others the kernel refuses it.
MODES_OF: Final = {
    "lacp-rate": ("802.3ad",),
    "hash-policy": ("balance-xor", "802.3ad", "balance-tlb"),
    "primary": ("active-backup", "balance-tlb", "balance-alb"),
}
MIIMON: Final = 100

# The keys that are for some kinds only.
KEYS_OF: Final = {
    "ethernet": (),
    "vlan": ("parent", "id"),
    "bond": ("ports", "mode", "miimon", *MODES_OF),
    "bridge": ("ports", "stp"),
}
# What a port has not: its bond or bridge has it.
NOT_OF_PORTS: Final = ("addresses", "gateway", "routes", "dhcp", "advertisements")


def _name(text: str) -> str:
    if "/" in text or not fullmatch(NAME, text):
        raise ValueError(
            f"{text[:80]!a} is no name of a link; write 1 to 15 of a-z A-Z 0-9 _ . and -, "
            "of which the first is no . or -"
        )
    if text in RESERVED:
        raise ValueError(f"{text} is no name for a link of yours; choose another")
    return text


def _host(text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"{text[:80]!a} is no IP address; write one, such as 10.0.0.1") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ValueError(f"{text} is no address of one host; write another")
    if address.version == 6 and address.scope_id is not None:
        raise ValueError(f"{text} names a link; leave off what begins with %")
    return address


def _server(text: str) -> str:
    try:
        return str(_host(text))
    except ValueError:
        # An address that is none of a host is no name either.
        if text.replace(".", "").isdigit() or ":" in text or not is_domain(text):
            raise ValueError(
                f"{text[:80]!a} is no host; write a name or an address, such as ntp.example.com"
            ) from None
        return text


def _interface(text: str) -> IPInterface:
    example = "10.0.0.2/24"
    host, slash, length = text.partition("/")
    try:
        address = _host(host)
    except ValueError as e:
        raise ValueError(str(e).replace("10.0.0.1", example)) from None
    if not slash:
        raise ValueError(f"{text} has no prefix length; write it as {example}")
    try:
        interface: IPInterface = ip_interface(f"{address}/{int(length)}")
    except ValueError:
        most = 32 if address.version == 4 else 128
        raise ValueError(f"{text[:80]!a} has no prefix length of 0 to {most}") from None
    network = interface.network
    if network.prefixlen < network.max_prefixlen - 1:
        if address == network.network_address:
            raise ValueError(f"{text} is the network itself; write the address of a host in it")
        if address.version == 4 and address == network.broadcast_address:
            raise ValueError(f"{text} is the broadcast address; write that of a host")
    return interface


def _destination(text: str) -> IPNetwork | None:
    """None for the default route."""
    if text == DEFAULT:
        return None
    example = 'a network such as 10.1.0.0/16, or "default"'
    try:
        network: IPNetwork = ip_network(text)
    except ValueError:
        try:
            fitting = ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"{text[:80]!a} is no network; write {example}") from None
        raise ValueError(f"{text} has bits of a host; write {fitting}") from None
    if network.is_multicast:
        raise ValueError(f"{text} is multicast; write {example}")
    return network


def _mac(text: str) -> bytes:
    if not fullmatch(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}", text):
        raise ValueError(f"{text[:80]!a} is no MAC address; write it as 52:54:00:12:34:56")
    mac = bytes.fromhex(text.replace(":", ""))
    if mac[0] & 1 or not any(mac):
        raise ValueError(f"{text} is no MAC address of one device; write another")
    return mac


def _domain(text: str) -> str:
    if not is_domain(text):
        raise ValueError(f"{text[:80]!a} is no domain; write labels of a-z A-Z 0-9 and -")
    return text.removesuffix(".")


def _check_link(link: Values) -> Iterator[Problem]:
    kind = link["kind"]
    for key in dict.fromkeys(key for keys in KEYS_OF.values() for key in keys):
        if key not in KEYS_OF[kind] and link[key] not in (None, ()):
            kinds = " or ".join(other for other, known in KEYS_OF.items() if key in known)
            yield Problem(key, f"is for links of kind {kinds}; this one is of kind {kind}")
    if kind == "vlan":
        for key, remedy in (("parent", "name the link it lies on"), ("id", "set 1 to 4094")):
            if link[key] is None:
                yield Problem(key, f"is missing; {remedy}")
    if kind == "bond":
        yield from _check_bond(link)
    seen: set[str] = set()
    for port in link["ports"]:
        if port in seen:
            yield Problem("ports", f"{port} is there twice; take one out")
        seen.add(port)
    yield from _check_addresses(link)
    yield from _check_gateways(link)
    yield from _check_routes(link)


def _check_bond(link: Values) -> Iterator[Problem]:
    if not link["ports"]:
        yield Problem("ports", "is missing; name the links that it is made of")
    mode = _mode(link)
    for key, modes in MODES_OF.items():
        if link[key] is not None and mode not in modes:
            yield Problem(key, f"has no meaning with mode {mode}; it has with {' or '.join(modes)}")
    primary = link["primary"]
    if primary is not None and primary not in link["ports"]:
        yield Problem("primary", f"{primary} is none of the ports; name one of them")


def _check_addresses(link: Values) -> Iterator[Problem]:
    addresses: tuple[IPInterface, ...] = link["addresses"]
    for number, interface in enumerate(addresses):
        if interface.ip in [other.ip for other in addresses[:number]]:
            yield Problem(f"addresses[{number}]", f"{interface.ip} is there twice; take one out")
    six = link["advertisements"] or any(interface.version == 6 for interface in addresses)
    if six and link["mtu"] is not None and link["mtu"] < LEAST_MTU_6:
        message = f"is {link['mtu']}, and IPv6 needs {LEAST_MTU_6}; set that, or take IPv6 out"
        yield Problem("mtu", message)


def _check_gateways(link: Values) -> Iterator[Problem]:
    gateways = _gateways(link)
    if len({gateway.version for gateway in gateways}) < len(gateways):
        yield Problem("gateway", "has two of one family; write the other as a route with a metric")
    for gateway in gateways:
        yield from _check_gateway(link, "gateway", gateway, onlink=bool(link["onlink"]))


def _check_routes(link: Values) -> Iterator[Problem]:
    seen: set[tuple[IPNetwork, int | None]] = set()
    for number, route in enumerate(link["routes"]):
        path = f"routes[{number}]"
        yield from _check_route(link, path, route)
        key = (_to(route), route["metric"])
        if key in seen:
            yield Problem(path, f"{key[0]} is there twice with one metric; take one out")
        seen.add(key)


def _check_route(link: Values, path: str, route: Values) -> Iterator[Problem]:
    via, destination = route["via"], route["to"]
    if via is None:
        if destination is None:
            yield Problem(f"{path}.via", "is missing; the default route needs a gateway")
        if route["onlink"]:
            yield Problem(f"{path}.onlink", "is about a gateway; set via, or take it out")
    elif destination is not None and destination.version != via.version:
        message = f"{via} is not of the family of {destination}; write one that is"
        yield Problem(f"{path}.via", message)
    else:
        onlink = bool(route["onlink"] or link["onlink"])
        yield from _check_gateway(link, f"{path}.via", via, onlink=onlink)


def _check_gateway(
    link: Values, path: str, gateway: IPAddress, *, onlink: bool
) -> Iterator[Problem]:
    own = [interface for interface in link["addresses"] if interface.version == gateway.version]
    if gateway in [interface.ip for interface in own]:
        yield Problem(path, f"{gateway} is the link's own address; write that of the router")
        return
    # Of what is not written here we do not know the networks.
    unknown = link["dhcp"] if gateway.version == 4 else link["advertisements"]
    if onlink or gateway.is_link_local or unknown:
        return
    if not any(gateway in interface.network for interface in own):
        networks = ", ".join(str(interface.network) for interface in own)
        where = f"in no network of the link ({networks})" if own else "of a family without address"
        yield Problem(path, f"{gateway} is {where}; mend one of them, or set onlink = true")


def _check_network(network: Values) -> Iterator[Problem]:
    links: Mapping[str, Values] = network["links"]
    cycles = list(_check_cycles(links))
    yield from cycles
    yield from _check_ports(links)
    if not cycles:
        yield from _check_kinds(links)
        yield from _check_mtus(links)
    yield from _check_twice(links)
    yield from _check_default_routes(links)


def _check_cycles(links: Mapping[str, Values]) -> Iterator[Problem]:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> tuple[str, ...] | None:
        if name in way:
            return way[way.index(name) :]
        if name in done or name not in links:
            return None
        for other in _below(links[name]):
            if found := visit(other, (*way, name)):
                return found
        done.add(name)
        return None

    for name in links:
        if cycle := visit(name, ()):
            done.update(cycle)
            pairs = zip(cycle, (*cycle[1:], cycle[0]), strict=True)
            words = [f"{one} on {other}" for one, other in pairs]
            words[0] = words[0].replace(" on ", " lies on ")
            key = "parent" if links[cycle[0]]["kind"] == "vlan" else "ports"
            path = join(join("links", cycle[0]), key)
            yield Problem(path, f"{', '.join(words)}; take one of them out of the cycle")


def _check_ports(links: Mapping[str, Values]) -> Iterator[Problem]:
    masters: dict[str, str] = {}
    for name, link in links.items():
        path = join(join("links", name), "ports")
        for port in dict.fromkeys(link["ports"]):
            if port in masters:
                message = f"{port} is a port of {masters[port]} too; take it out of one of them"
                yield Problem(path, message)
            masters.setdefault(port, name)
    for port, name in masters.items():
        link = links.get(port, {})
        for key in NOT_OF_PORTS:
            if link.get(key):
                path = join(join("links", port), key)
                yield Problem(path, f"has no effect on a port of {name}; write it there")
        if link.get("mtu") and links[name]["kind"] == "bond":
            path = join(join("links", port), "mtu")
            yield Problem(path, f"is that of {name} in a port of a bond; write it there")


def _check_kinds(links: Mapping[str, Values]) -> Iterator[Problem]:
    """The kernel makes no bridge a port, and no bond one of a bond."""
    for name, link in links.items():
        for port in link["ports"]:
            kind = links[port]["kind"] if port in links else ""
            if kind in ("bridge", link["kind"]):
                message = f"{port} is a {kind}, which cannot be a port here; leave it out"
                yield Problem(join(join("links", name), "ports"), message)


def _check_mtus(links: Mapping[str, Values]) -> Iterator[Problem]:
    for name, link in links.items():
        for other in _below(link):
            lower = links.get(other, {}).get("mtu")
            if link["mtu"] and lower and link["mtu"] > lower:
                path = join(join("links", name), "mtu")
                message = f"is {link['mtu']}, and {other} below has {lower}; set that at most"
                yield Problem(path, message)


def _check_twice(links: Mapping[str, Values]) -> Iterator[Problem]:
    vlans: dict[tuple[str, int], str] = {}
    macs: dict[bytes, str] = {}
    addresses: dict[IPAddress, str] = {}
    for name, link in links.items():
        path = join("links", name)
        if link["kind"] == "vlan":
            key = (link["parent"], link["id"])
            if vlans.setdefault(key, name) != name:
                message = f"{key[1]} on {key[0]} is that of {vlans[key]} too; take another"
                yield Problem(join(path, "id"), message)
        mac = link["mac"]
        if mac is not None and macs.setdefault(mac, name) != name:
            message = f"{mac.hex(':')} is that of {macs[mac]} too; take another"
            yield Problem(join(path, "mac"), message)
        for number, interface in enumerate(link["addresses"]):
            if addresses.setdefault(interface.ip, name) != name:
                message = f"{interface.ip} is an address of {addresses[interface.ip]} too"
                yield Problem(f"{path}.addresses[{number}]", f"{message}; take another")


def _check_default_routes(links: Mapping[str, Values]) -> Iterator[Problem]:
    seen: dict[tuple[int, int | None], str] = {}
    for name, link in links.items():
        link_path = join("links", name)
        found: list[tuple[int, int | None, str]] = [
            (gateway.version, None, f"{link_path}.gateway") for gateway in _gateways(link)
        ]
        for number, route in enumerate(link["routes"]):
            if _to(route).prefixlen == 0:
                path = f"{link_path}.routes[{number}]"
                found.append((_to(route).version, route["metric"], path))
        for version, metric, path in found:
            first = seen.setdefault((version, metric), path)
            if first != path:
                same = "" if metric is None else f" with metric {metric}"
                fact = f"is a second default route of IPv{version}{same}, {first} is the first"
                remedy = 'take one out, or write it as a route to "default" with another metric'
                yield Problem(path, f"{fact}; {remedy}")


def _mode(link: Values) -> str:
    return link["mode"] or "active-backup"


def _below(link: Values) -> tuple[str, ...]:
    return (link["parent"],) if link["parent"] is not None else tuple(link["ports"])


def _gateways(link: Values) -> tuple[IPAddress, ...]:
    given = link["gateway"]
    return given if isinstance(given, tuple) else () if given is None else (given,)


def _to(route: Values) -> IPNetwork:
    if route["to"] is not None:
        network: IPNetwork = route["to"]
        return network
    via = route["via"]
    everywhere_6 = via is not None and via.version == 6
    return IPv6Network("::/0") if everywhere_6 else IPv4Network("0.0.0.0/0")


def _dhcp(link: Values) -> bool:
    """Unless it is said, a link with an address of its own has none by DHCP."""
    given: bool | None = link["dhcp"]
    return all(i.version == 6 for i in link["addresses"]) if given is None else given


def _advertisements(link: Values) -> bool:
    given: bool | None = link["advertisements"]
    return all(i.version == 4 for i in link["addresses"]) if given is None else given


ROUTE: Final = Table(
    (
        Key(
            "to",
            Text(parse=_destination, sample="a network"),
            'where to, a network or "default"',
            required=True,
            example='"10.1.0.0/16"',
        ),
        Key(
            "via",
            Text(parse=_host, sample="an IP address"),
            "the gateway; without it what is there is on the link itself",
            example='"10.0.0.254"',
        ),
        Key("metric", Integer(1, 0xFFFFFFFF), "of two routes that with the smaller one is taken"),
        Key("onlink", Boolean(), "the gateway is on the link, whatever its address"),
    )
)

LINK: Final = Table(
    (
        Key("kind", Text(choices=tuple(KEYS_OF)), "what it is", default="ethernet"),
        Key(
            "mac",
            Text(parse=_mac, sample="a MAC address"),
            "of a card: the card that is to have this name; of others: to be set",
            example='"52:54:00:12:34:56"',
        ),
        Key("mtu", Integer(68, 65535), "the longest packet, in bytes"),
        Key("dhcp", Boolean(), "ask for an address by DHCPv4; true where no IPv4 address is given"),
        Key(
            "advertisements",
            Boolean(),
            "do as IPv6 routers advertise; true where no IPv6 address is given",
        ),
        Key(
            "addresses",
            Items(Text(parse=_interface, sample="an address with prefix length"), most=64),
            "addresses with their prefix lengths",
            example='["10.0.0.2/24", "fd00::2/64"]',
        ),
        Key(
            "gateway",
            Either(
                (
                    Text(parse=_host, sample="an IP address"),
                    Items(Text(parse=_host, sample="an IP address"), most=2),
                )
            ),
            "the default route, or a list of one for each family",
            example='"10.0.0.1"',
        ),
        Key("onlink", Boolean(), "the gateway is on the link, whatever its address"),
        Key("routes", Items(ROUTE, most=256), "further routes"),
        Key("parent", Text(parse=_name, sample="a link"), "of a VLAN: the link that it lies on"),
        Key("id", Integer(1, 4094), "of a VLAN: its number"),
        Key(
            "ports",
            Items(Text(parse=_name, sample="a link"), most=64),
            "of a bond or bridge: the links that it is made of",
            example='["eth0", "eth1"]',
        ),
        Key("mode", Text(choices=tuple(MODES)), "of a bond; active-backup if not given"),
        Key("miimon", Integer(10, 60000), "of a bond: milliseconds between looks at the carrier"),
        Key("lacp-rate", Text(choices=tuple(LACP_RATES)), "of a bond with mode 802.3ad"),
        Key(
            "hash-policy",
            Text(choices=tuple(HASH_POLICIES)),
            "of a bond: what decides which port a packet takes",
        ),
        Key("primary", Text(parse=_name, sample="a link"), "of a bond: the port that is preferred"),
        Key("stp", Boolean(), "of a bridge: speak the spanning tree protocol"),
    ),
    check=_check_link,
)

NETWORK: Final = Table(
    (
        Key(
            "nameservers",
            Items(Text(parse=_host, sample="an IP address"), most=3),
            "DNS servers; they go before those by DHCP and of routers",
            example='["10.0.0.53"]',
        ),
        Key(
            "search",
            Items(Text(parse=_domain, sample="a domain"), most=6),
            "domains in which names without a dot are looked for",
            example='["example.com"]',
        ),
        Key("links", Tables(LINK, name=_name), "links by name"),
    ),
    check=_check_network,
)

TIME: Final = Table(
    (
        Key(
            "servers",
            Items(Text(parse=_server, sample="a host"), most=8),
            "NTP servers, by name or address; without any here, those by DHCP",
            example='["ntp1.example.com", "10.0.0.1"]',
        ),
    )
)


def check(table: Values, time: Values = NOTHING) -> tuple[Problem, ...]:
    """What is wrong with the tables `network` and `time`; paths begin with them."""
    return (*read(NETWORK, table, "network").problems, *read(TIME, time, "time").problems)


def settings(table: Values, hostname: str | None = None, time: Values = NOTHING) -> Settings:
    """What tables without problems mean; `hostname` is the document's."""
    values = read(NETWORK, table, "network").values
    return Settings(
        links=tuple(_link(name, link) for name, link in values["links"].items()),
        nameservers=values["nameservers"],
        timeservers=read(TIME, time, "time").values["servers"],
        search=values["search"],
        hostname=hostname,
    )


def _link(name: str, link: Values) -> LinkSettings:
    card = link["kind"] == "ethernet"
    return LinkSettings(
        device=name,
        addresses=link["addresses"],
        gateways=_gateways(link),
        dhcp=_dhcp(link),
        advertisements=_advertisements(link),
        mtu=link["mtu"],
        mac=None if card else link["mac"],
        match=link["mac"] if card else None,
        routes=tuple(
            StaticRoute(_to(one), one["via"], one["metric"], bool(one["onlink"] or link["onlink"]))
            for one in link["routes"]
        ),
        onlink=bool(link["onlink"]),
        virtual=None if card else _virtual(link),
        origin=Origin.DOCUMENT,
    )


def _virtual(link: Values) -> Virtual:
    return Virtual(
        kind=link["kind"],
        parent=link["parent"],
        ports=tuple(link["ports"]),
        options=tuple(_options(link)),
        primary=link["primary"],
    )


def _options(link: Values) -> Iterable[tuple[str, int]]:
    match link["kind"]:
        case "vlan":
            yield "id", link["id"]
        case "bond":
            yield "mode", MODES[_mode(link)]
            # Without it a bond does not look at its ports at all.
            yield "miimon", link["miimon"] or MIIMON
            if link["lacp-rate"] is not None:
                yield "lacp-rate", LACP_RATES[link["lacp-rate"]]
            if link["hash-policy"] is not None:
                yield "hash-policy", HASH_POLICIES[link["hash-policy"]]
        case "bridge":
            yield "stp", int(bool(link["stp"]))
