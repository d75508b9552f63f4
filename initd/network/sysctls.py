"""What the kernel is to do by itself on a link of ours."""

import logging
from pathlib import Path
from typing import Final

from initd.network.desired import DHCP_METRIC

log: Final = logging.getLogger(__name__)

SYSCTLS: Final = Path("/proc/sys/net")


def write(name: str, index: int, *, advertisements: bool) -> None:
    """What cannot be set is logged."""
    on = int(advertisements)
    values = {
        # 2: also where this node forwards for its workloads.
        f"ipv6/conf/{name}/accept_ra": 2 * on,
        f"ipv6/conf/{name}/autoconf": on,
        f"ipv6/conf/{name}/accept_ra_rt_info_max_plen": 64 * on,
        f"ipv6/conf/{name}/ra_defrtr_metric": DHCP_METRIC + index,
        # Removing a lease's old address must not remove the new one of the same network.
        f"ipv4/conf/{name}/promote_secondaries": 1,
        # With a second link, an unplugged first one is no way out.
        f"ipv4/conf/{name}/ignore_routes_with_linkdown": 1,
    }
    for key, value in values.items():
        try:
            # Never made: where the kernel has no such file, it has no such feature.
            with (SYSCTLS / key).open("r+") as file:
                file.write(str(value))
        except FileNotFoundError:
            continue
        except OSError as e:
            log.warning("%s: cannot set sysctl net/%s: %s", name, key, e.strerror)
