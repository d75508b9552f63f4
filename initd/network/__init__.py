"""The network service: links, addresses, DHCP, routes, DNS over netlink."""
