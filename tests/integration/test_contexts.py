"""auraed without a machine: as a daemon on a host, and as PID 1 of a container.

The host is a machine of ours. What runs there has mounts and a cgroup of its own, so the host's own
auraed is not in its way.
"""

from typing import Final

from testkit.machines import Machine

# Several commands of aer in one interpreter, a line each: to start one is slow under emulation.
AER: Final = r"""
import shlex, sys, time
from aer.__main__ import main
while main(["health", "check"]): time.sleep(0.2)
for line in sys.stdin:
    main(shlex.split(line))
"""

# A place for one more auraed: its own /run/aurae, and its own cgroup with every controller.
DAEMON: Final = r"""
mount -t tmpfs tmpfs /run/aurae || exit 1
base=/sys/fs/cgroup/host
mkdir $base
sh -c "echo \$\$ > $base/cgroup.procs; exec /sbin/init daemon" >&2 &
daemon=$!
python3 -c "$1" 2>&1 << END
cell allocate web --memory-max 64M
cell start web again 'exit 1' --restart on_failure --restart-limit 1 --backoff 100ms
cell start web one 'echo hello from \$AURAE_CELL; setsid sleep 1000 & exec sleep 1000'
cell wait web again
logs web/one
END
cat $base/aurae/web/memory.max
/sbin/init daemon 2>&1
kill $daemon
wait $daemon
echo "code $?"
ls -A /run/aurae
find $base -mindepth 1 -type d
rmdir $base
"""

# What is asked to stay runs and writes on, until it ends or its keeper does.
STAYING: Final = r"""
mount -t tmpfs tmpfs /run/aurae || exit 1
base=/sys/fs/cgroup/host
mkdir $base
sh -c "echo \$\$ > $base/cgroup.procs; exec /sbin/init daemon --stay" > /run/said 2>&1 &
daemon=$!
python3 -c "$1" > /dev/null 2>&1 << END
cell allocate web --isolate-process
cell start web stays 'while sleep 0.1; do echo on; done'
END
kill $daemon
wait $daemon
echo "code $?"
cat /run/said | grep -o 'what runs stays, and pid'
cat $base/auraed/initd/cgroup.procs > /run/keepers
xargs -I% cat /proc/%/comm < /run/keepers
python3 -ISc 'import socket; socket.socket(socket.AF_UNIX).connect("/run/aurae/aurae.sock")' 2>&1 |
  grep -o "Connection refused"
size() { cat /run/aurae/logs/*/stdout | wc -c; }
before=$(size)
until [ $(size) -gt $before ]; do sleep 0.1; done
echo it writes
kill $(cat /run/keepers)
until [ ! -e $base/auraed ]; do sleep 0.1; done
ls -A /run/aurae
find $base -mindepth 1 -type d
rmdir $base
rm /run/said /run/keepers
"""


RESTS: Final = "restarted 1 time within 600 s; the last run ended with exit code 1"


def test_a_daemon_serves_on_a_host_and_leaves_nothing(machine: Machine) -> None:
    with machine.cell("host") as cell:
        done = cell.run('exec unshare -m sh -c "$1" sh "$2"', DAEMON, AER, timeout=300)
        said = [line for line in done.stdout.splitlines() if not line.startswith("aer: ")]
        started = [line for line in said if "started, pid" in line]
        assert len(started) == 2, done
        assert [line for line in said if line not in started and "(aer" not in line] == [
            "node: serving",
            "web: allocated",
            f"web/again: ended with exit code 1 ({RESTS})",
            "hello from web",
            str(64 << 20),
            "auraed: /run/aurae/initd.sock: auraed runs already: end that first",
            "code 0",
        ], done
        assert "serving on /run/aurae/aurae.sock" in done.stderr
    assert "sleep 1000" not in machine.system.read("ps")


def test_what_is_asked_to_stay_outlives_the_daemon(machine: Machine) -> None:
    done = machine.system.run('exec unshare -m sh -c "$1" sh "$2"', STAYING, AER, timeout=180)
    assert done.stdout.splitlines() == [
        "code 0",
        "what runs stays, and pid",
        "auraed-keeper",
        "Connection refused",
        "it writes",
    ], done


CONTAINER: Final = r"""
mount -t tmpfs -o size=500m tmpfs /mnt || exit 1
/sbin/init spawn --output /mnt/bundle || exit 1
/sbin/init spawn --output /mnt/bundle 2>&1
crun="crun --root /mnt/crun --cgroup-manager cgroupfs"
$crun run --bundle /mnt/bundle box > /mnt/said 2>&1 &
container=$!
until grep -q 'runtime ready' /mnt/said; do sleep 0.1; done
$crun exec box cat /proc/1/comm
$crun exec box python3 -c "$1" 2>&1 << END
cell start _system e 'cat /proc/self/cgroup; hostname; echo \$\$'
cell wait _system e
logs e
END
$crun kill box TERM
wait $container
echo "code $?"
find /sys/fs/cgroup/box -type d 2> /dev/null
"""


def test_a_bundle_runs_as_a_container_with_auraed_as_its_init(machine: Machine) -> None:
    done = machine.system.run('exec unshare -m sh -c "$1" sh "$2"', CONTAINER, AER, timeout=300)
    said = [
        line
        for line in done.stdout.splitlines()
        if not line.startswith("aer: ") and "(aer" not in line and "started, pid" not in line
    ]
    *start, number, code = said
    assert start == [
        "/mnt/bundle: written; run it with an OCI runtime",
        "auraed: /mnt/bundle: exists: name a new folder",
        "auraed",
        "node: serving",
        "_system/e: ended with exit code 0",
        "0::/aurae/_system/_e",
        "aurae",
    ], done
    # A process ID of the container's own.
    assert 1 < int(number) < 100, done
    assert code == "code 0", done
