"""ConfigService of aurae.node.v0 over gRPC."""

from collections.abc import Iterable
from typing import Any, TypeAlias

from aurae.node.v0 import config_pb2, config_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from initd.configuration.channels import Merged
from initd.configuration.tables import Problem
from initd.errors import InvalidArgument
from runtime.configuration import model
from runtime.configuration.configurations import Configurations
from runtime.configuration.files import now
from runtime.policy.gate import Asking, Gate
from runtime.policy.table import Permission
from runtime.server.callers import calling

# Generic in its stub only.
Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class ConfigService(config_pb2_grpc.ConfigServiceServicer):
    def __init__(self, configurations: Configurations, gate: Gate) -> None:
        self._configurations = configurations
        self._gate = gate

    async def Get(
        self, request: config_pb2.ConfigServiceGetRequest, context: Context
    ) -> config_pb2.ConfigServiceGetResponse:
        found = await self._configurations.get()
        caller = calling()
        may = self._gate.permissions(Asking(caller.scope, caller.id))
        trial = found.trial
        return config_pb2.ConfigServiceGetResponse(
            document=found.document if Permission.CONFIG_WRITE in may else "",
            revision="" if found.stored is None else model.revision_of(found.stored),
            settings=_settings(found.merged),
            hidden=(
                config_pb2.ConfigHidden(
                    setting=_setting(model.setting(one.path, one.value, one.channel)), by=one.by
                )
                for one in found.merged.hidden
            ),
            problems=found.merged.problems,
            trial_revision=trial.revision if trial else "",
            remaining=_duration(max(0.0, trial.deadline - now())) if trial else None,
            lasting=self._configurations.lasting,
        )

    async def Validate(
        self, request: config_pb2.ConfigServiceValidateRequest, context: Context
    ) -> config_pb2.ConfigServiceValidateResponse:
        checked = await self._configurations.check(request.document)
        return config_pb2.ConfigServiceValidateResponse(
            problems=_remarks(checked.problems),
            notes=_remarks(checked.notes),
            settings=_settings(checked.merged),
            revision=model.revision_of(request.document),
        )

    async def Apply(
        self, request: config_pb2.ConfigServiceApplyRequest, context: Context
    ) -> config_pb2.ConfigServiceApplyResponse:
        notes = await self._configurations.apply(
            request.document,
            trial=_seconds(request.trial) if request.HasField("trial") else None,
            if_revision=request.if_revision if request.HasField("if_revision") else None,
            volatile=request.volatile,
        )
        return config_pb2.ConfigServiceApplyResponse(
            revision=model.revision_of(request.document), notes=_remarks(notes)
        )

    async def Confirm(
        self, request: config_pb2.ConfigServiceConfirmRequest, context: Context
    ) -> config_pb2.ConfigServiceConfirmResponse:
        revision = await self._configurations.confirm(request.revision)
        return config_pb2.ConfigServiceConfirmResponse(revision=revision)

    async def Revert(
        self, request: config_pb2.ConfigServiceRevertRequest, context: Context
    ) -> config_pb2.ConfigServiceRevertResponse:
        return config_pb2.ConfigServiceRevertResponse(revision=await self._configurations.revert())


def _settings(merged: Merged) -> Iterable[config_pb2.ConfigSetting]:
    return map(_setting, model.settings(merged))


def _setting(one: model.Setting) -> config_pb2.ConfigSetting:
    return config_pb2.ConfigSetting(
        key=one.key, value=one.value, origin=one.origin, secret=one.secret
    )


def _remarks(problems: Iterable[Problem]) -> Iterable[config_pb2.ConfigRemark]:
    return (config_pb2.ConfigRemark(key=one.path, message=one.message) for one in problems)


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromMilliseconds(round(seconds * 1000))
    return made


def _seconds(duration: Duration) -> float:
    try:
        return duration.ToNanoseconds() / 1e9
    except ValueError as e:
        raise InvalidArgument(f"trial: is no duration ({e})") from e
