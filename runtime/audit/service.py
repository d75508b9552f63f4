"""aurae.audit.v0 over gRPC."""

from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

from aurae.audit.v0 import audit_pb2, audit_pb2_grpc
from grpc import aio

from initd.errors import InvalidArgument
from runtime.audit.log import AuditLog
from runtime.audit.model import MOST, Event, Filter, Kind

# Generic in its stub only.
Context: TypeAlias = "aio.ServicerContext[Any, Any]"

KINDS: Final = {
    Kind.DECISION: audit_pb2.AUDIT_EVENT_KIND_DECISION,
    Kind.START: audit_pb2.AUDIT_EVENT_KIND_START,
    Kind.STOP: audit_pb2.AUDIT_EVENT_KIND_STOP,
    Kind.SEGMENT: audit_pb2.AUDIT_EVENT_KIND_SEGMENT,
    Kind.GAP: audit_pb2.AUDIT_EVENT_KIND_GAP,
    Kind.BROKEN: audit_pb2.AUDIT_EVENT_KIND_BROKEN,
}


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def Watch(
        self, request: audit_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[audit_pb2.WatchResponse]:
        if request.since and request.only_new:
            raise InvalidArgument("since, only_new: both are given; give one of them")
        for field, pattern in (("who", request.who), ("method", request.method)):
            if len(pattern) > MOST:
                raise InvalidArgument(f"{field}: has {len(pattern)} characters; at most {MOST}")
        asked = Filter(request.who, request.method, request.denied)
        matches = asked.matches()
        batches = self._log.watch(
            request.since, follow=not request.no_follow, only_new=request.only_new
        )
        lost = 0
        async for batch in batches:
            lost += batch.lost
            events = [_event(event) for event in batch.events if matches(event)]
            if not events and not batch.damage:
                continue
            yield audit_pb2.WatchResponse(
                events=events,
                previous="" if any(asked) else batch.previous,
                lost=lost,
                damage=batch.damage,
            )
            lost = 0

    async def GetHead(
        self, request: audit_pb2.GetHeadRequest, context: Context
    ) -> audit_pb2.GetHeadResponse:
        head = self._log.head
        return audit_pb2.GetHeadResponse(seq=head.seq, hash=head.hash)


def _event(event: Event) -> audit_pb2.AuditEvent:
    return audit_pb2.AuditEvent(**{**event._asdict(), "kind": KINDS[event.kind]})
