"""Every exception of grpc and qdrant-client becomes one of the product's, in one place."""

import ast
from pathlib import Path

import grpc
import httpx
import pytest
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from gmvaluator.errors import GmvaluatorError, IndexFailed, IndexUnavailable, MissingIndex, Overloaded
from gmvaluator.index.qdrant import STATUS_ERRORS, translate_errors

INDEX = Path(__file__).parents[3] / "gmvaluator" / "index"


class Status(grpc.RpcError):
    """What a call raises: an RpcError with a code."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__()
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "it said so"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_is_mapped(code: grpc.StatusCode) -> None:
    kind, advice = STATUS_ERRORS[code]
    with (
        pytest.raises(kind, match=rf"^the index answered {code.name}: it said so; ") as caught,
        translate_errors("the index"),
    ):
        raise Status(code)
    assert advice in str(caught.value)
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_the_statuses_that_matter_keep_their_meaning() -> None:
    assert STATUS_ERRORS[grpc.StatusCode.UNAVAILABLE][0] is IndexUnavailable
    assert STATUS_ERRORS[grpc.StatusCode.DEADLINE_EXCEEDED][0] is IndexUnavailable
    assert STATUS_ERRORS[grpc.StatusCode.NOT_FOUND][0] is MissingIndex
    assert STATUS_ERRORS[grpc.StatusCode.RESOURCE_EXHAUSTED][0] is Overloaded


RAISED = {
    QdrantException: QdrantException("broken"),
    ResourceExhaustedResponse: ResourceExhaustedResponse("slow down", 3),
    ApiException: ApiException("broken"),
    UnexpectedResponse: UnexpectedResponse(500, "broken", b"", httpx.Headers()),
    ResponseHandlingException: ResponseHandlingException(OSError("broken")),
}


def test_every_exception_of_the_client_is_mapped() -> None:
    bases = {QdrantException, ApiException}
    assert bases | {kind for base in bases for kind in base.__subclasses__()} == set(RAISED)
    for error in RAISED.values():
        expected = Overloaded if isinstance(error, ResourceExhaustedResponse) else IndexFailed
        with pytest.raises(expected, match="the index"), translate_errors("the index"):
            raise error


def test_errors_of_the_product_pass_unchanged() -> None:
    with pytest.raises(GmvaluatorError, match=r"^as it was$"), translate_errors("the index"):
        raise MissingIndex("as it was")


def test_no_other_module_catches_them() -> None:
    """The launcher is exempt: it checks whether an engine answers, and an error means that it does not."""
    catching = {
        path.name
        for path in INDEX.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and "RpcError" in ast.dump(node)
    }
    assert catching == {"qdrant.py", "launcher.py"}
