"""What processes of a cell may not do, and what comes of it where cells lie in each other."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, Self

from initd.errors import InvalidArgument
from initd.linux import capability
from initd.processes.model import Confinement
from initd.values import NamedTuple


class Profile(StrEnum):
    RESTRICTED = "restricted"


class Seccomp(StrEnum):
    DEFAULT = "default"


# Those that are about mounts and IDs, which need namespaces.
ISOLATED: Final = ("user_namespace", "read_only_root", "private_tmp", "private_dev")


class Security(NamedTuple):
    """As it was asked for."""

    profile: Profile | None = None
    user_namespace: bool = False
    read_only_root: bool = False
    private_tmp: bool = False
    private_dev: bool = False
    no_new_privileges: bool = False
    drop_capabilities: bool = False
    keep_capabilities: tuple[str, ...] = ()
    seccomp: Seccomp | None = None

    def check(self, where: str, *, isolated: bool) -> None:
        """`isolated`: the cell has `isolate_process`."""
        for name in self.keep_capabilities:
            if name not in capability.NAMES:
                raise InvalidArgument(
                    f"{where}.keep_capabilities: {name[:80]!a} is no capability; write a name of "
                    "capabilities(7) such as CAP_NET_BIND_SERVICE"
                )
        if self.profile is Profile.RESTRICTED:
            if self.keep_capabilities:
                raise InvalidArgument(
                    f"{where}.keep_capabilities: the profile restricted keeps none; leave it out, "
                    "or set the other fields in place of the profile"
                )
            return
        for field in ISOLATED:
            if getattr(self, field) and not isolated:
                raise InvalidArgument(f"{where}.{field}: needs cell.isolate_process; set it too")

    def resolved(self) -> Self:
        """With what the profile sets."""
        if self.profile is None:
            return self
        return type(self)(
            profile=self.profile,
            user_namespace=True,
            read_only_root=True,
            private_tmp=True,
            private_dev=True,
            no_new_privileges=True,
            drop_capabilities=True,
            seccomp=Seccomp.DEFAULT,
        )

    @property
    def kept(self) -> frozenset[str] | None:
        """The capabilities that are left; None: all."""
        if self.drop_capabilities or self.keep_capabilities:
            return frozenset(self.keep_capabilities)
        return None

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **spec,
                "profile": None if spec["profile"] is None else Profile(spec["profile"]),
                "keep_capabilities": tuple(spec["keep_capabilities"]),
                "seccomp": None if spec["seccomp"] is None else Seccomp(spec["seccomp"]),
            }
        )


NONE: Final = Security()


def together(all_: Iterable[Security]) -> Security:
    """What holds where each of them holds: a cell's own and those of the cells above."""
    resolved = [security.resolved() for security in all_]
    kept = [security.kept for security in resolved if security.kept is not None]
    return Security(
        user_namespace=any(security.user_namespace for security in resolved),
        read_only_root=any(security.read_only_root for security in resolved),
        private_tmp=any(security.private_tmp for security in resolved),
        private_dev=any(security.private_dev for security in resolved),
        no_new_privileges=any(security.no_new_privileges for security in resolved),
        drop_capabilities=bool(kept),
        keep_capabilities=tuple(sorted(frozenset.intersection(*kept))) if kept else (),
        seccomp=next((s.seccomp for s in resolved if s.seccomp is not None), None),
    )


def confinement(security: Security) -> Confinement:
    """What PID 1 is asked for."""
    kept = security.kept
    return Confinement(
        no_new_privileges=security.no_new_privileges,
        capabilities=None if kept is None else tuple(sorted(kept)),
        seccomp=security.seccomp is not None,
    )
