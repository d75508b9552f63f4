"""Documents that should not be a node's network, as TOML: what is refused, and what is not.

`REFUSED` has, for each, what is said of it. Those in `CUT_OFF` can be applied, and most of them
leave a machine whose only card is eth0 on QEMU's user network (10.0.2.15, router 10.0.2.2) without
its API.
"""

from typing import Final

REFUSED: Final = {
    "an unknown key": (
        "[network.links.eth0]\ndchp = true",
        "network.links.eth0.dchp: is not known; did you mean dhcp?",
    ),
    "an unknown key of the network": (
        '[network]\nnameserver = ["10.0.0.1"]',
        "network.nameserver: is not known; did you mean nameservers?",
    ),
    "two default routes": (
        (
            '[network.links.eth0]\naddresses = ["10.0.2.15/24"]\ngateway = "10.0.2.2"\n'
            '[network.links.eth1]\naddresses = ["10.0.3.15/24"]\ngateway = "10.0.3.2"'
        ),
        (
            "network.links.eth1.gateway: is a second default route of IPv4, "
            "links.eth0.gateway is the first; take one out, or write it as a route to "
            '"default" with another metric'
        ),
    ),
    "two default routes of one metric": (
        (
            '[network.links.eth0]\naddresses = ["10.0.2.15/24"]\n'
            'routes = [{to = "default", via = "10.0.2.2", metric = 5}, '
            '{to = "0.0.0.0/0", via = "10.0.2.3", metric = 5}]'
        ),
        "network.links.eth0.routes[1]: 0.0.0.0/0 is there twice with one metric; take one out",
    ),
    "a cycle": (
        (
            '[network.links.v5]\nkind = "vlan"\nid = 5\nparent = "bond0"\n'
            '[network.links.bond0]\nkind = "bond"\nports = ["eth0", "br0"]\n'
            '[network.links.br0]\nkind = "bridge"\nports = ["v5"]'
        ),
        (
            "network.links.v5.parent: v5 lies on bond0, bond0 on br0, br0 on v5; take one "
            "of them out of the cycle"
        ),
    ),
    "a VLAN on itself": (
        '[network.links.v5]\nkind = "vlan"\nid = 5\nparent = "v5"',
        "network.links.v5.parent: v5 lies on v5; take one of them out of the cycle",
    ),
    "a port of two": (
        (
            '[network.links.bond0]\nkind = "bond"\nports = ["eth0"]\n'
            '[network.links.br0]\nkind = "bridge"\nports = ["eth0"]'
        ),
        "network.links.br0.ports: eth0 is a port of bond0 too; take it out of one of them",
    ),
    "a port named twice": (
        '[network.links.bond0]\nkind = "bond"\nports = ["eth0", "eth0"]',
        "network.links.bond0.ports: eth0 is there twice; take one out",
    ),
    "an address on a port": (
        (
            '[network.links.bond0]\nkind = "bond"\nports = ["eth0"]\n'
            '[network.links.eth0]\naddresses = ["10.0.2.15/24"]'
        ),
        "network.links.eth0.addresses: has no effect on a port of bond0; write it there",
    ),
    "a VLAN id of 0": (
        '[network.links.v0]\nkind = "vlan"\nid = 0\nparent = "eth0"',
        "network.links.v0.id: is 0, and must be a whole number from 1 to 4094",
    ),
    "a VLAN id of 4095": (
        '[network.links.v0]\nkind = "vlan"\nid = 4095\nparent = "eth0"',
        "network.links.v0.id: is 4095, and must be a whole number from 1 to 4094",
    ),
    "a VLAN without parent": (
        '[network.links.v5]\nkind = "vlan"\nid = 5',
        "network.links.v5.parent: is missing; name the link it lies on",
    ),
    "one VLAN twice": (
        (
            '[network.links.a]\nkind = "vlan"\nid = 5\nparent = "eth0"\n'
            '[network.links.b]\nkind = "vlan"\nid = 5\nparent = "eth0"'
        ),
        "network.links.b.id: 5 on eth0 is that of a too; take another",
    ),
    "a gateway elsewhere": (
        '[network.links.eth0]\naddresses = ["10.0.2.15/24"]\ngateway = "10.9.9.1"',
        (
            "network.links.eth0.gateway: 10.9.9.1 is in no network of the link "
            "(10.0.2.0/24); mend one of them, or set onlink = true"
        ),
    ),
    "a gateway without address": (
        '[network.links.eth0]\ngateway = "10.9.9.1"',
        (
            "network.links.eth0.gateway: 10.9.9.1 is of a family without address; mend one "
            "of them, or set onlink = true"
        ),
    ),
    "the network as address": (
        '[network.links.eth0]\naddresses = ["10.0.2.0/24"]',
        (
            "network.links.eth0.addresses[0]: 10.0.2.0/24 is the network itself; write the "
            "address of a host in it"
        ),
    ),
    "the broadcast address": (
        '[network.links.eth0]\naddresses = ["10.0.2.255/24"]',
        (
            "network.links.eth0.addresses[0]: 10.0.2.255/24 is the broadcast address; write "
            "that of a host"
        ),
    ),
    "no prefix length": (
        '[network.links.eth0]\naddresses = ["10.0.2.15"]',
        "network.links.eth0.addresses[0]: 10.0.2.15 has no prefix length; write it as 10.0.0.2/24",
    ),
    "an address that is none": (
        '[network.links.eth0]\naddresses = ["10.0.2.300/24"]',
        (
            "network.links.eth0.addresses[0]: '10.0.2.300' is no IP address; write one, such as "
            "10.0.0.2/24"
        ),
    ),
    "a prefix length that is none": (
        '[network.links.eth0]\naddresses = ["10.0.2.15/33"]',
        "network.links.eth0.addresses[0]: '10.0.2.15/33' has no prefix length of 0 to 32",
    ),
    "too small an MTU": (
        "[network.links.eth0]\nmtu = 67",
        "network.links.eth0.mtu: is 67, and must be a whole number from 68 to 65535",
    ),
    "too large an MTU": (
        "[network.links.eth0]\nmtu = 65536",
        "network.links.eth0.mtu: is 65536, and must be a whole number from 68 to 65535",
    ),
    "an MTU too small for IPv6": (
        '[network.links.eth0]\nmtu = 1000\naddresses = ["fd00::5/64"]',
        "network.links.eth0.mtu: is 1000, and IPv6 needs 1280; set that, or take IPv6 out",
    ),
    "an MTU above that below": (
        (
            "[network.links.eth0]\nmtu = 1400\n"
            '[network.links.v5]\nkind = "vlan"\nid = 5\nparent = "eth0"\nmtu = 1500'
        ),
        "network.links.v5.mtu: is 1500, and eth0 below has 1400; set that at most",
    ),
    "a name too long": (
        "[network.links.abcdefghijklmnop]\ndhcp = true",
        (
            "network.links.abcdefghijklmnop: 'abcdefghijklmnop' is no name of a link; write "
            "1 to 15 of a-z A-Z 0-9 _ . and -, of which the first is no . or -"
        ),
    ),
    "a name with a slash": (
        '[network.links."a/b"]\ndhcp = true',
        (
            "network.links.\"a/b\": 'a/b' is no name of a link; write 1 to 15 of a-z A-Z "
            "0-9 _ . and -, of which the first is no . or -"
        ),
    ),
    "a name with a meaning": (
        "[network.links.all]\ndhcp = true",
        "network.links.all: all is no name for a link of yours; choose another",
    ),
    "a key of another kind": (
        "[network.links.eth0]\nid = 5",
        "network.links.eth0.id: is for links of kind vlan; this one is of kind ethernet",
    ),
    "ports of a VLAN": (
        '[network.links.v5]\nkind = "vlan"\nid = 5\nparent = "eth0"\nports = ["eth1"]',
        "network.links.v5.ports: is for links of kind bond or bridge; this one is of kind vlan",
    ),
    "a bridge in a bridge": (
        (
            '[network.links.br0]\nkind = "bridge"\nports = ["br1"]\n'
            '[network.links.br1]\nkind = "bridge"'
        ),
        "network.links.br0.ports: br1 is a bridge, which cannot be a port here; leave it out",
    ),
    "a bond of nothing": (
        '[network.links.bond0]\nkind = "bond"',
        "network.links.bond0.ports: is missing; name the links that it is made of",
    ),
    "an option of another mode": (
        '[network.links.bond0]\nkind = "bond"\nports = ["eth0"]\nlacp-rate = "fast"',
        (
            "network.links.bond0.lacp-rate: has no meaning with mode active-backup; it has with "
            "802.3ad"
        ),
    ),
    "a primary that is no port": (
        '[network.links.bond0]\nkind = "bond"\nports = ["eth0"]\nprimary = "eth1"',
        "network.links.bond0.primary: eth1 is none of the ports; name one of them",
    ),
    "an unknown mode": (
        '[network.links.bond0]\nkind = "bond"\nports = ["eth0"]\nmode = "active-backups"',
        "network.links.bond0.mode: 'active-backups' is not known; did you mean active-backup?",
    ),
    "one address of two links": (
        (
            '[network.links.eth0]\naddresses = ["10.0.2.15/24"]\n'
            '[network.links.eth1]\naddresses = ["10.0.2.15/16"]'
        ),
        "network.links.eth1.addresses[0]: 10.0.2.15 is an address of eth0 too; take another",
    ),
    "a route with bits of a host": (
        '[network.links.eth0]\nroutes = [{to = "10.1.2.3/16"}]',
        "network.links.eth0.routes[0].to: 10.1.2.3/16 has bits of a host; write 10.1.0.0/16",
    ),
    "a route of two families": (
        '[network.links.eth0]\nroutes = [{to = "10.1.0.0/16", via = "fe80::1"}]',
        (
            "network.links.eth0.routes[0].via: fe80::1 is not of the family of 10.1.0.0/16; "
            "write one that is"
        ),
    ),
    "a default route without gateway": (
        '[network.links.eth0]\nroutes = [{to = "default"}]',
        "network.links.eth0.routes[0].via: is missing; the default route needs a gateway",
    ),
    "itself as gateway": (
        '[network.links.eth0]\naddresses = ["10.0.2.15/24"]\ngateway = "10.0.2.15"',
        "network.links.eth0.gateway: 10.0.2.15 is the link's own address; write that of the router",
    ),
    "a MAC address of many": (
        '[network.links.eth0]\nmac = "01:00:5e:00:00:01"',
        "network.links.eth0.mac: 01:00:5e:00:00:01 is no MAC address of one device; write another",
    ),
}

_OFF: Final = "dhcp = false\nadvertisements = false"

CUT_OFF: Final = {
    "another network": '[network.links.eth0]\naddresses = ["10.99.0.15/24"]',
    "another address of the network": '[network.links.eth0]\naddresses = ["10.0.2.77/24"]',
    "a prefix length that leaves the router out": (
        '[network.links.eth0]\naddresses = ["10.0.2.15/32"]'
    ),
    "no address at all": f"[network.links.eth0]\n{_OFF}",
    "IPv6 alone": '[network.links.eth0]\ndhcp = false\naddresses = ["fd99::5/64"]',
    "the smallest MTU": "[network.links.eth0]\nadvertisements = false\nmtu = 68",
    "an MTU that the card has not": "[network.links.eth0]\nmtu = 65535",
    "a route that leads the answers astray": (
        '[network.links.eth0]\naddresses = ["10.0.2.15/24"]\n'
        'routes = [{to = "10.0.2.2/32", via = "10.0.2.99"}]'
    ),
    "a router that is not there": (
        '[network.links.eth0]\naddresses = ["10.0.2.99/24"]\ngateway = "10.0.2.98"'
    ),
    "a router elsewhere on the link": (
        '[network.links.eth0]\naddresses = ["10.99.0.2/32"]\ngateway = "10.98.0.1"\nonlink = true'
    ),
    "a bridge without address": (f'[network.links.br0]\nkind = "bridge"\nports = ["eth0"]\n{_OFF}'),
    "a bridge with another hardware address": (
        '[network.links.br0]\nkind = "bridge"\nports = ["eth0"]\nmac = "02:00:00:00:00:99"\n'
        'stp = true\naddresses = ["10.0.2.78/24"]'
    ),
    "a bond without address": (f'[network.links.bond0]\nkind = "bond"\nports = ["eth0"]\n{_OFF}'),
    "a bond that waits for a port": (
        '[network.links.bond0]\nkind = "bond"\nmode = "802.3ad"\nlacp-rate = "fast"\n'
        f'ports = ["eth0", "eth7"]\n{_OFF}'
    ),
    "a VLAN alone": (
        f'[network.links.eth0]\n{_OFF}\n[network.links.v5]\nkind = "vlan"\nid = 5\nparent = "eth0"'
    ),
    "a VLAN over a bridge over a bond": (
        '[network.links.bond0]\nkind = "bond"\nports = ["eth0"]\n'
        f'[network.links.br0]\nkind = "bridge"\nports = ["bond0"]\n{_OFF}\n'
        '[network.links.v7]\nkind = "vlan"\nid = 7\nparent = "br0"\naddresses = ["10.7.0.2/24"]'
    ),
    "a bridge of a VLAN of a bond": (
        '[network.links.bond0]\nkind = "bond"\nports = ["eth0"]\nmode = "balance-rr"\n'
        f'{_OFF}\n[network.links.v7]\nkind = "vlan"\nid = 7\nparent = "bond0"\n'
        '[network.links.br0]\nkind = "bridge"\nports = ["v7"]\naddresses = ["10.7.0.2/24"]'
    ),
    "a VLAN of a VLAN": (
        f"[network.links.eth0]\n{_OFF}\n"
        f'[network.links.v5]\nkind = "vlan"\nid = 5\nparent = "eth0"\n{_OFF}\n'
        '[network.links.v6]\nkind = "vlan"\nid = 6\nparent = "v5"'
    ),
    "a parent that is not there": (
        f'[network.links.eth0]\n{_OFF}\n[network.links.v5]\nkind = "vlan"\nid = 5\nparent = "eth9"'
    ),
    "another default route before the right one": (
        '[network.links.eth0]\naddresses = ["10.0.2.79/24"]\n'
        'routes = [{to = "default", via = "10.0.2.3", metric = 1}, '
        '{to = "default", via = "10.0.2.2", metric = 2}]'
    ),
}
