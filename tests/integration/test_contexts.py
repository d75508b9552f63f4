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


# What an OCI runtime does with a bundle, as far as ours needs it.
RUNTIME: Final = r"""
import json, os, subprocess, sys
bundle, base = sys.argv[1:]
config = json.load(open(f"{bundle}/config.json"))
root = f"{bundle}/{config['root']['path']}"
flags = {"cgroup": os.CLONE_NEWCGROUP, "ipc": os.CLONE_NEWIPC, "mount": os.CLONE_NEWNS,
         "network": os.CLONE_NEWNET, "pid": os.CLONE_NEWPID, "uts": os.CLONE_NEWUTS}
home = "/sys/fs/cgroup" + open("/proc/self/cgroup").read().strip().removeprefix("0::")
# Opened before there is a namespace that does not hold it.
leave = open(f"{home}/cgroup.procs", "w")
os.mkdir(base)
with open(f"{base}/cgroup.procs", "w") as procs:
    procs.write("0")
for namespace in config["linux"]["namespaces"]:
    os.unshare(flags[namespace["type"]])
ready, go = os.pipe()
pid = os.fork()
if pid:
    leave.write("0")
    leave.close()
    os.write(go, b"x")
    print(pid, flush=True)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(f"code {code}", flush=True)
    sys.exit()
os.close(go)
if not os.read(ready, 1):
    sys.exit(1)
process = config["process"]
subprocess.run(["mount", "--bind", root, root], check=True)
for mount in config["mounts"]:
    kind = {"cgroup": "cgroup2"}.get(mount["type"], mount["type"])
    target, options = root + mount["destination"], ",".join(mount["options"])
    os.makedirs(target, exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, kind, target], check=True)
if config["root"]["readonly"]:
    subprocess.run(["mount", "-o", "remount,ro,bind", root], check=True)
for name, minor in (("null", 3), ("zero", 5), ("urandom", 9)):
    os.mknod(f"{root}/dev/{name}", 0o20666, os.makedev(1, minor))
subprocess.run(["hostname", config["hostname"]], check=True)
os.chroot(root)
os.chdir(process["cwd"])
os.execve(process["args"][0], process["args"], dict(word.split("=", 1) for word in process["env"]))
"""

# Runs Python in the container, as `exec` of an OCI runtime would.
ENTER: Final = r"""
import os, sys, time
pid, *argv = sys.argv[1:]
while open(f"/proc/{pid}/comm").read() != "auraed\n":
    time.sleep(0.1)
root = os.open(f"/proc/{pid}/root", os.O_PATH)
os.setns(os.pidfd_open(int(pid)), os.CLONE_NEWPID | os.CLONE_NEWNS | os.CLONE_NEWNET)
os.fchdir(root)
os.chroot(".")
child = os.fork()
if not child:
    os.execvp("python3", ["python3", *argv])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

CONTAINER: Final = r"""
mount -t tmpfs -o size=500m tmpfs /mnt || exit 1
/sbin/init spawn --output /mnt/bundle || exit 1
/sbin/init spawn --output /mnt/bundle 2>&1
mkfifo /mnt/said
python3 -c "$1" /mnt/bundle /sys/fs/cgroup/box > /mnt/said &
exec 3< /mnt/said
read -r pid <&3
python3 -c "$2" $pid -c "$3" 2>&1 << END
cell start _system e 'cat /proc/self/cgroup; hostname; cat /proc/1/comm; echo \$\$'
cell wait _system e
logs e
END
kill $pid
cat <&3
find /sys/fs/cgroup/box -mindepth 1 -type d
rmdir /sys/fs/cgroup/box
"""


def test_a_bundle_runs_as_a_container_with_auraed_as_its_init(machine: Machine) -> None:
    done = machine.system.run(
        'exec unshare -m sh -c "$1" sh "$2" "$3" "$4"', CONTAINER, RUNTIME, ENTER, AER, timeout=300
    )
    said = [
        line
        for line in done.stdout.splitlines()
        if not line.startswith("aer: ") and "(aer" not in line and "started, pid" not in line
    ]
    *start, number, code = said
    assert start == [
        "/mnt/bundle: written; run it with an OCI runtime",
        "auraed: /mnt/bundle: exists: name a new folder",
        "node: serving",
        "_system/e: ended with exit code 0",
        "0::/aurae/_system/_e",
        "aurae",
        "auraed",
    ], done
    # A process ID of the container's own.
    assert 1 < int(number) < 100, done
    assert code == "code 0", done
