"""ConfigService as a client sees it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from aurae.auth.v0 import auth_pb2, auth_pb2_grpc
from aurae.node.v0 import config_pb2 as pb
from aurae.node.v0 import config_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from testkit.refusals import refused
from tests.unit.runtime import node as nodes
from tests.unit.runtime.node import DEADLINE, Node

DOCUMENT = 'listen = "[::]:9000"\nlog-level = "debug"\n'


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cmdline").write_text("aurae.log=warning")
    with nodes.node(tmp_path) as there:
        yield there


def stub(node: Node) -> config_pb2_grpc.ConfigServiceStub:
    return config_pb2_grpc.ConfigServiceStub(node.channel)


def get(node: Node) -> pb.ConfigServiceGetResponse:
    return stub(node).Get(pb.ConfigServiceGetRequest(), timeout=DEADLINE)


def apply(
    node: Node, document: str, seconds: int = 0, **options: object
) -> pb.ConfigServiceApplyResponse:
    request = pb.ConfigServiceApplyRequest(document=document, **options)  # type: ignore[arg-type]
    if seconds:
        request.trial.CopyFrom(Duration(seconds=seconds))
    return stub(node).Apply(request, timeout=DEADLINE)


def test_what_holds_is_shown_with_its_origin(node: Node) -> None:
    answer = apply(node, DOCUMENT)
    assert [(note.key, note.message.partition(":")[0]) for note in answer.notes] == [
        ("log-level", "is hidden"),
        ("listen", "takes effect at the next boot"),
    ]
    found = get(node)
    assert found.document == DOCUMENT
    assert found.revision == answer.revision
    assert found.lasting
    shown = {one.key: (one.value, one.origin) for one in found.settings}
    assert shown["listen"] == ('"[::]:9000"', "stored")
    assert shown["log-level"] == ('"warning"', "cmdline")
    assert shown["watchdog"] == ("60", "default")
    (hidden,) = found.hidden
    assert (hidden.setting.key, hidden.setting.value, hidden.by) == (
        "log-level",
        '"debug"',
        "cmdline",
    )


def test_a_document_is_checked_without_a_change(node: Node) -> None:
    request = pb.ConfigServiceValidateRequest(document="hostnme = 'a'")
    answer = stub(node).Validate(request, timeout=DEADLINE)
    assert [(one.key, one.message) for one in answer.problems] == [
        ("hostnme", "is not known; did you mean hostname?")
    ]
    assert get(node).revision == ""


@pytest.mark.parametrize(
    ("document", "fragment"),
    [
        ("hostnme = 'a'", "configuration: hostnme: is not known; did you mean hostname?"),
        ("[policy]\nrulez = []", "configuration: policy: is no such document"),
        (
            "[[policy.rules]]\nname='a'\nid='nonsense'\nrole='ROLE_ADMIN'",
            "configuration: policy.rules[0].id: ",
        ),
        ("[[cells.cells]]\nname = '..'", "configuration: cells.cells[0]: "),
        ("[[cells.cells]]\nnmae = 'a'", "configuration: cells.cells[0]: "),
    ],
)
def test_what_is_wrong_is_refused(node: Node, document: str, fragment: str) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, fragment):
        apply(node, document)
    assert get(node).revision == ""


def test_a_trial_is_shown_and_confirmed(node: Node) -> None:
    revision = apply(node, DOCUMENT, seconds=60).revision
    found = get(node)
    assert found.trial_revision == revision
    assert 50 < found.remaining.seconds <= 60
    assert found.revision == ""
    assert found.document == DOCUMENT
    with refused(StatusCode.FAILED_PRECONDITION, "is on trial"):
        apply(node, DOCUMENT)
    stub(node).Confirm(pb.ConfigServiceConfirmRequest(revision=revision), timeout=DEADLINE)
    assert (node.folder / "disk/config.toml").read_text() == DOCUMENT
    with refused(StatusCode.FAILED_PRECONDITION, "nothing is on trial"):
        stub(node).Revert(pb.ConfigServiceRevertRequest(), timeout=DEADLINE)


def test_a_trial_outlives_the_api(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cmdline").write_text("")
    with nodes.owner(tmp_path):
        with nodes.api(tmp_path), nodes.client(tmp_path) as there:
            revision = apply(there, DOCUMENT, seconds=60).revision
        with nodes.api(tmp_path), nodes.client(tmp_path) as there:
            assert get(there).trial_revision == revision
            stub(there).Revert(pb.ConfigServiceRevertRequest(), timeout=DEADLINE)
            assert get(there).trial_revision == ""


def test_a_policy_of_the_document_holds_at_once(node: Node) -> None:
    auth = auth_pb2_grpc.AuthServiceStub(node.channel)
    before = auth.GetPolicy(auth_pb2.GetPolicyRequest(), timeout=DEADLINE)
    rule = "[[policy.rules]]\nname='a'\nid='spiffe://a.org/person/*'\nrole='ROLE_ADMIN'"
    apply(node, rule, seconds=60)
    held = auth.GetPolicy(auth_pb2.GetPolicyRequest(), timeout=DEADLINE)
    assert [rule.id for rule in held.policy.rules] == ["spiffe://a.org/person/*"]
    stub(node).Revert(pb.ConfigServiceRevertRequest(), timeout=DEADLINE)
    assert auth.GetPolicy(auth_pb2.GetPolicyRequest(), timeout=DEADLINE) == before


def test_what_else_goes_before_the_document_is_told(node: Node) -> None:
    (node.folder / "cells.json").write_text("{}")
    answer = apply(node, "[[cells.cells]]\nname = 'web'")
    assert [(note.key, note.message) for note in answer.notes] == [
        ("cells", f"is hidden: {node.folder}/cells.json goes before"),
        ("cells", "takes effect at the next boot"),
    ]


def test_a_cell_configures_no_node(node: Node) -> None:
    node.allocate("web")
    with nodes.inside(node.folder, "web") as there:
        with refused(StatusCode.PERMISSION_DENIED, "is not for callers in a cell"):
            get(there)
        with refused(StatusCode.PERMISSION_DENIED, "is not for callers in a cell"):
            apply(there, "")
    node.free("web")
