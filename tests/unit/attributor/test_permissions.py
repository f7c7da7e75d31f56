"""Permissions: the table of roles against the services' descriptors, and against a server."""

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

import gmvaluator.v1
from attributor.rpc.admission import Admission
from attributor.rpc.call_limits import Backends, CallGate
from attributor.rpc.health import HealthServicer
from attributor.rpc.interceptors import Authentication
from attributor.rpc.servicers import AttributionServicer, RoyaltyServicer, check_claimant, checked_request
from attributor.server import SERVICES, load_authenticator
from attributor.settings import AttributorSettings
from gmvaluator.auth.authenticator import Authenticator
from gmvaluator.auth.roles import LOCAL, PERMISSIONS, PUBLIC, Caller, Role, check_call
from gmvaluator.auth.tokens import Token, add_token, new_token, now_utc, token_sha256
from gmvaluator.errors import Forbidden, PreconditionFailed
from gmvaluator.ids import new_owner_id
from gmvaluator.ledger.results import Balance, BalancePage
from gmvaluator.v1 import attribution_pb2 as v1
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from gmvaluator.v1.attribution_pb2_grpc import add_AttributionServiceServicer_to_server
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceStub, add_RoyaltyServiceServicer_to_server

OWNER = new_owner_id()


def contracts() -> list[ModuleType]:
    """Return our generated modules, and those of the two services that come with gRPC."""
    ours = [f"gmvaluator.v1.{module.name}" for module in pkgutil.iter_modules(gmvaluator.v1.__path__)]
    generated = [importlib.import_module(name) for name in ours if name.endswith("_pb2")]
    return [*generated, health_pb2, reflection_pb2]


def methods() -> list[str]:
    descriptors = [cast(Any, module).DESCRIPTOR for module in contracts()]
    services = [service for descriptor in descriptors for service in descriptor.services_by_name.values()]
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


def test_every_method_of_every_service_is_in_one_of_the_tables() -> None:
    assert sorted(methods()) == sorted([*PERMISSIONS, *PUBLIC])


def test_every_service_has_a_health_status() -> None:
    ours = {name.split("/")[1] for name in PERMISSIONS if name.startswith("/gmvaluator.")}
    assert set(SERVICES) == {"", *ours}


@pytest.mark.parametrize("method", PERMISSIONS)
def test_every_method_is_open_to_some_role_and_closed_to_another(method: str) -> None:
    assert PERMISSIONS[method]
    assert set(Role) - PERMISSIONS[method]


def test_a_method_in_no_table_is_closed_to_every_role() -> None:
    with pytest.raises(Forbidden, match="nobody"):
        check_call(LOCAL, "/gmvaluator.v1.AttributionService/Forgotten")


class OneLedger:
    """Balances of several accounts, the owner's among them."""

    def balances(self, after: str = "", limit: int = 100) -> BalancePage:
        accounts = sorted(["held", f"owner:{new_owner_id()}", f"owner:{OWNER}", "unattributed"])
        above = [account for account in accounts if account > after][:limit]
        return BalancePage(tuple(Balance(account, 5) for account in above), 9)

    def balance(self, account: str) -> BalancePage:
        return BalancePage((Balance(account, 5),), 9)

    def postings_after(self, sequence: int, limit: int) -> list[Any]:
        return []


class NoNames:
    """A catalogue without names."""

    def display_names(self, owner_ids: object) -> dict[Any, str]:
        return {}


@pytest.fixture
def tokens(tmp_path: Path) -> dict[Role, str]:
    """Create a token of each role, in tmp_path/tokens.json."""
    secrets = {role: new_token() for role in Role}
    for role, secret in secrets.items():
        bound: dict[str, Any] = {"owner": str(OWNER)} if role is Role.OWNER else {}
        bound = {"generator": f"id-{role}"} if role in (Role.GENERATOR, Role.EMBEDDER) else bound
        add_token(tmp_path / "tokens.json", Token(role.value, role, token_sha256(secret), now_utc(), **bound))
    return secrets


@pytest.fixture
async def channel(tmp_path: Path, tokens: dict[Role, str]) -> AsyncIterator[grpc.aio.Channel]:
    """Connect to a server with all services over an empty system, which requires tokens."""
    gate, stopping = CallGate(Admission(8, 10**9)), asyncio.Event()
    server = grpc.aio.server(interceptors=[Authentication(Authenticator(tmp_path / "tokens.json"))])
    add_AttributionServiceServicer_to_server(AttributionServicer(gate, stopping), server)
    add_RoyaltyServiceServicer_to_server(RoyaltyServicer(gate, stopping), server)
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(SERVICES[1:], server)
    gate.open(Backends(cast(Any, None), cast(Any, OneLedger()), cast(Any, NoNames()), cast(Any, None)))
    stopping.set()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as connected:
        yield connected
    await server.stop(None)


async def status(channel: grpc.aio.Channel, method: str, token: str | None, message: bytes = b"") -> grpc.StatusCode:
    """Return the status of a call with one message, whatever the shape of the method."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    call = cast(Any, channel).unary_stream(method)(message, metadata=metadata, timeout=20)
    try:
        async for _ in call:
            break
        call.cancel()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("role", Role)
async def test_each_role_may_call_what_the_table_says(
    channel: grpc.aio.Channel, tokens: dict[Role, str], role: Role
) -> None:
    for method, allowed in PERMISSIONS.items():
        answered = await status(channel, method, tokens[role])
        denied = answered is grpc.StatusCode.PERMISSION_DENIED
        # An owner's empty dispute names no claimant, which is refused by its own rule, below.
        assert denied == (role not in allowed or (method.endswith("OpenDispute") and role is Role.OWNER)), (
            method,
            answered,
        )


@pytest.mark.parametrize("wrong", [None, "gmv_guess", "gmv_" + "A" * 43])
async def test_without_a_known_token_nothing_but_health_answers(channel: grpc.aio.Channel, wrong: str | None) -> None:
    for method in PERMISSIONS:
        assert await status(channel, method, wrong) is grpc.StatusCode.UNAUTHENTICATED
    assert await status(channel, "/grpc.health.v1.Health/Check", wrong) is grpc.StatusCode.OK


async def test_an_owner_reads_one_balance_and_an_auditor_all(
    channel: grpc.aio.Channel, tokens: dict[Role, str]
) -> None:
    stub: Any = RoyaltyServiceStub(channel)

    async def accounts(role: Role) -> list[str]:
        metadata = (("authorization", f"Bearer {tokens[role]}"),)
        answer = await stub.GetRoyalties(royalty_v1.GetRoyaltiesRequest(), metadata=metadata)
        return [royalty.account for royalty in answer.royalties]

    assert await accounts(Role.OWNER) == [f"owner:{OWNER}"]
    assert len(await accounts(Role.AUDITOR)) == 4


def test_an_owner_disputes_in_its_own_name_alone() -> None:
    owner = Caller("ann", frozenset({Role.OWNER}), owner_id=OWNER)
    check_claimant(owner, f"owner:{OWNER}")
    check_claimant(owner, str(OWNER))
    check_claimant(LOCAL, "")
    for claimant in ("", f"owner:{new_owner_id()}", "owner:", f"owner:owner:{OWNER}"):
        with pytest.raises(Forbidden, match="own name"):
            check_claimant(owner, claimant)


@pytest.mark.parametrize(("model_version", "refused"), [("g1", False), ("g2", True), ("", True)])
async def test_a_bound_token_names_no_other_generator(
    channel: grpc.aio.Channel, tmp_path: Path, model_version: str, refused: bool
) -> None:
    secret = new_token()
    bound = Token("farm", Role.GENERATOR, token_sha256(secret), now_utc(), generator="farm", model_versions=("g1",))
    add_token(tmp_path / "tokens.json", bound)
    images = v1.AttributeRequest(generation_id="g", model_version=model_version)
    previews = v1.PreviewRequest(model_version=model_version)
    for method, request in (("Attribute", images), ("Preview", previews)):
        path = f"/gmvaluator.v1.AttributionService/{method}"
        code = await status(channel, path, secret, cast(Any, request).SerializeToString())
        assert (code is grpc.StatusCode.PERMISSION_DENIED) == refused
    if refused:
        with pytest.raises(Forbidden):
            checked_request(images, bound.caller)  # as each image of a stream is checked


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"])
def test_calls_without_tokens_are_for_loopback_alone(tmp_path: Path, address: str) -> None:
    with pytest.raises(PreconditionFailed, match="--insecure"):
        load_authenticator(AttributorSettings(tmp_path, address=address))
    assert load_authenticator(AttributorSettings(tmp_path, address=address, insecure=True)).anonymous_allowed
    assert load_authenticator(AttributorSettings(tmp_path)).anonymous_allowed
