"""Tests of access control: every route, every role, and callers without a token."""

import json
import re
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from dashboard.app import application, routes
from dashboard.cli import location_of
from dashboard.figures.near_duplicates import DuplicateGroup, NearDuplicates
from dashboard.server import MAX_WRONG_TOKENS_PER_MINUTE, wired
from dashboard.web.access import ACCESS, PUBLIC
from dashboard.web.rate_limit import RateLimit
from dashboard.web.settings import DashboardSettings
from gmvaluator.auth.roles import Role
from gmvaluator.auth.tokens import Token, add_token, new_token, token_sha256
from gmvaluator.errors import PreconditionFailed
from gmvaluator.images import generated_path
from gmvaluator.ledger.decisions.reversal import reverse
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.region_outlines import MAX_DRAWN
from gmvaluator.storage.data_folder import generated_folder
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_card, sample_collage, sample_owner, sample_posting, sample_work
from tests.support.scenes import attribute, import_rights, owner_named, record, sha256_of, work

HTML = {"accept": "text/html"}
OWN, OTHER = str(sample_owner(2)), str(sample_owner(5))
PATHS = {
    "home": "/",
    "overview": "/overview",
    "owner": f"/owners/{OWN}",
    "statement": f"/owners/{OWN}/statements/2026-01",
    "work": f"/works/{sample_work(0)}",
    "generation": "/generations/1",
    "replay": "/generations/1/replay",
    "finance": "/finance",
    "operations": "/operations",
    "operations_data": "/operations/data",
    "search": "/search?q=nothing",
    "work_picture": f"/pictures/works/{sample_work(0)}",
    "generated_picture": "/pictures/generations/1",
}
POSTS = {"dispute": "/disputes", "preview": "/preview?model_version=x"}
REFUSED = {401, 403}
HOSTILE = '<img src=x onerror="hurt()"><script>hurt()</script>'
THEIRS = {
    Role.OWNER: {"home": 303, "owner": 200, "statement": 200, "work": 403, "generation": 200, "replay": 403,
                 "search": 200, "work_picture": 403, "dispute": 409, "preview": 409},
    Role.GENERATOR: {"home": 303, "generation": 403, "replay": 403, "search": 200, "work_picture": 404, "preview": 409,
                     "generated_picture": 403},
    Role.EMBEDDER: {"home": 303, "generation": 403, "replay": 403, "search": 200, "work_picture": 404, "preview": 409,
                    "generated_picture": 403},
}  # fmt: skip
"""Status of each route for roles that see only their own data, requested for data of others; an owner's own page."""


@pytest.fixture(scope="module")
def tokens() -> dict[str, str]:
    return {role: new_token() for role in Role}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tokens: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with open_ledger(folder, write=True) as ledger:
        ledger.post([sample_posting(number, generation=f"image-{number}") for number in range(1, 30)])
        ledger.post([sample_posting(30, identity="painter", model_version=HOSTILE), sample_posting(31)])
        for posting in ledger.postings_after(29):
            kept = generated_path(generated_folder(folder), posting.header.image_sha256 or "")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(b"a picture")
    for role, token in tokens.items():
        add_token(folder / "tokens.json", made(Role(role), token))
    return folder


def made(role: Role, token: str) -> Token:
    generator = "painter" if role in (Role.GENERATOR, Role.EMBEDDER) else ""
    owner = OWN if role is Role.OWNER else ""
    now = datetime.now(UTC).isoformat()
    return Token(f"a-{role}", role, token_sha256(token), now, generator=generator, owner=owner)


@pytest.fixture(scope="module")
def app(data: Path) -> Iterator[Starlette]:
    with wired(DashboardSettings(DataLocation(data))) as context:
        yield application(context)


def visitor(app: Starlette) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1", follow_redirects=False, raise_server_exceptions=True)


def signed_in(app: Starlette, token: str) -> TestClient:
    client = visitor(app)
    response = client.post("/sign-in", data={"token": token, "next": "/"}, headers=HTML)
    assert response.status_code == 303, response.text
    return client


def csrf_of(client: TestClient) -> str:
    return hidden(client.get("/search", headers=HTML).text, "csrf")


def hidden(page: str, field: str) -> str:
    return page.split(f'name="{field}" value="')[1].split('"')[0]


def test_every_route_has_a_line_in_the_table() -> None:
    names = {route.name for route in routes()}  # type: ignore[attr-defined]
    assert names - {"live_overview"} <= set(ACCESS)
    guarded = {name for name in ACCESS if ACCESS[name] is not PUBLIC}
    assert guarded - {"metrics", "live_overview"} == set(PATHS) | set(POSTS)
    assert [route.name for route in routes() if isinstance(route, Mount)] == ["static"]


@pytest.mark.parametrize("name", sorted({*PATHS, *POSTS}))
@pytest.mark.parametrize("role", sorted(Role))
def test_the_table_is_enforced(app: Starlette, tokens: dict[str, str], role: str, name: str) -> None:
    client = signed_in(app, tokens[role])
    if name in POSTS:
        csrf = csrf_of(client)
        response = client.post(POSTS[name], data={"csrf": csrf}, headers={**HTML, "x-csrf-token": csrf})
    else:
        response = client.get(PATHS[name], headers=HTML)
    if Role(role) not in ACCESS[name]:
        assert response.status_code == 403, response.status_code
    elif Role(role) in THEIRS:
        assert response.status_code == THEIRS[Role(role)][name], response.text
    else:
        assert response.status_code not in REFUSED, response.text


def test_the_table_has_a_line_for_all_that_is_allowed() -> None:
    for role, statuses in THEIRS.items():
        assert set(statuses) == {name for name in (*PATHS, *POSTS) if role in ACCESS[name]}


@pytest.mark.parametrize("role", sorted(Role))
def test_streams_and_metrics_are_for_those_who_watch(app: Starlette, tokens: dict[str, str], role: str) -> None:
    if Role(role) not in ACCESS["live_overview"]:
        assert signed_in(app, tokens[role]).get("/live/overview").status_code == 403
    bearer = {"authorization": f"Bearer {tokens[role]}"}
    allowed = Role(role) in ACCESS["metrics"]
    assert visitor(app).get("/metrics", headers=bearer).status_code == (200 if allowed else 403)


@pytest.mark.parametrize("role", sorted(Role))
def test_a_generated_picture_is_for_its_generator_and_the_operator(
    app: Starlette, tokens: dict[str, str], role: str
) -> None:
    client = signed_in(app, tokens[role])
    pictures = {number: client.get(f"/pictures/generations/{number}", headers=HTML) for number in (29, 30, 31)}
    own, all_of_them = role in (Role.GENERATOR, Role.EMBEDDER), role == Role.OPERATOR
    assert pictures[30].status_code == (200 if own or all_of_them else 403)
    assert pictures[31].status_code == (200 if all_of_them else 403)
    assert pictures[29].status_code == (404 if all_of_them else 403)
    if pictures[30].status_code == 200:
        assert pictures[30].content == b"a picture"
        assert "private" in pictures[30].headers["cache-control"]


@pytest.mark.parametrize(("role", "shown"), [("operator", True), ("finance", False), ("auditor", False)])
def test_a_page_shows_no_picture_that_its_reader_may_not_load(
    app: Starlette, tokens: dict[str, str], role: str, shown: bool
) -> None:
    client = signed_in(app, tokens[role])
    for path in ("/overview", "/generations/31"):
        assert ('src="/pictures/generations/31"' in client.get(path, headers=HTML).text) is shown
    assert ("data-hide-generated" in client.get("/overview", headers=HTML).text) is not shown


@pytest.mark.parametrize("field", ["token", "next", "training_image_id", "generation_id", "claimant", "reason"])
def test_nothing_that_is_sent_comes_back_as_markup(app: Starlette, tokens: dict[str, str], field: str) -> None:
    client = signed_in(app, tokens["operator"])
    fields = {"csrf": csrf_of(client), "token": "x", "next": "/", "reason": "because", field: HOSTILE}
    for path in ("/sign-in", "/disputes"):
        response = client.post(path, data=fields, headers=HTML)
        assert response.status_code >= 400
        assert "<script>hurt" not in response.text
        assert "<img src=x" not in response.text


@pytest.mark.parametrize(
    "path",
    ["/search?q={}", "/sign-in?next={}", "/finance?after={}", "/generations/{}", "/owners/{}", "/works/{}",
     f"/owners/{OWN}/statements/{{}}", f"/owners/{OWN}/statements/2026-01?format={{}}", "/{}", "/generations/30",
     "/overview"],
)  # fmt: skip
def test_nothing_in_a_url_or_the_ledger_comes_back_as_markup(app: Starlette, tokens: dict[str, str], path: str) -> None:
    text = signed_in(app, tokens["operator"]).get(path.format(quote(HOSTILE, safe="")), headers=HTML).text
    assert "<script>hurt" not in text
    assert "<img src=x" not in text
    if path in ("/generations/30", "/overview"):
        assert "script" in text


def test_a_ledger_that_does_not_add_up_is_red(tmp_path: Path) -> None:
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_posting(1)])
    with wired(DashboardSettings(DataLocation(tmp_path))) as context:
        assert 'class="equation check good"' in visitor(application(context)).get("/finance", headers=HTML).text
    with sqlite3.connect(ledger_file(tmp_path)) as connection:
        connection.execute("UPDATE balances SET balance_micros = balance_micros + 1 WHERE account = 'suspense'")
        connection.execute("INSERT INTO balances VALUES ('suspense', 1) ON CONFLICT DO NOTHING")
    connection.close()
    with wired(DashboardSettings(DataLocation(tmp_path))) as context:
        page = visitor(application(context)).get("/finance", headers=HTML).text
        assert 'class="equation check bad"' in page
        assert "Does not add up" in page


@pytest.mark.parametrize("name", sorted(PATHS))
def test_a_caller_without_a_token_has_to_sign_in(app: Starlette, name: str) -> None:
    client = visitor(app)
    assert client.get(PATHS[name], headers=HTML).headers["location"].startswith("/sign-in?next=")
    assert client.get(PATHS[name], headers={"accept": "application/json"}).status_code == 401
    assert client.get("/live/overview").status_code == 401
    assert client.get("/metrics").status_code == 401


@pytest.mark.parametrize("path", ["/owners/{}", "/owners/{}/statements/2026-01"])
def test_an_owner_sees_only_their_own(app: Starlette, tokens: dict[str, str], path: str) -> None:
    client = signed_in(app, tokens["owner"])
    assert client.get(path.format(OWN), headers=HTML).status_code == 200
    assert client.get(path.format(OTHER), headers=HTML).status_code == 403


def test_an_owner_learns_nothing_of_others_from_a_generation(app: Starlette, tokens: dict[str, str]) -> None:
    client = signed_in(app, tokens["owner"])
    pages = [client.get(f"/generations/{number}", headers=HTML) for number in range(1, 30)]
    allowed = [page.text for page in pages if page.status_code == 200]
    assert allowed
    assert any(page.status_code == 403 for page in pages)
    owners = {str(sample_owner(number)) for number in range(7)} - {OWN}
    for text in allowed:
        assert "Another owner" in text
        assert not [owner for owner in owners if owner in text]


def test_an_owner_learns_nothing_of_others_from_a_decision(tmp_path: Path) -> None:
    token = new_token()
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_posting(number) for number in range(1, 30)])
        postings = ledger.postings_after(0)
        mine = next(
            posting for posting in postings if any(entry.account == f"owner:{OWN}" for entry in posting.entries)
        )
        sequence = reverse(ledger, mine, "a test image", datetime.now(UTC)).sequence
    add_token(tmp_path / "tokens.json", made(Role.OWNER, token))
    with wired(DashboardSettings(DataLocation(tmp_path))) as context:
        text = signed_in(application(context), token).get(f"/generations/{sequence}", headers=HTML).text
    own = [entry for entry in mine.entries if entry.account == f"owner:{OWN}"]
    others = [entry for entry in mine.entries if entry.account != f"owner:{OWN}"]
    works = {entry.training_image_id for entry in own}
    assert all(str(work_id) in text for work_id in works)
    assert not [entry for entry in others if entry.training_image_id and str(entry.training_image_id) in text]
    assert text.count("<tr><td>") == len(own)


def test_a_co_owner_is_named_nowhere(tmp_path: Path) -> None:
    place, token = DataLocation(tmp_path), new_token()
    record(place, work(1, None))
    rows = [f"{sha256_of(1)},ada,Ada Artist,500000", f"{sha256_of(1)},ben,Ben Baker,500000"]
    import_rights(place, tmp_path, "\n".join(["sha256,owner_id,owner_name,share_ppm", *rows, ""]))
    attribute(place, "g1", [1], datetime(2026, 10, 20, tzinfo=UTC))
    add_token(tmp_path / "tokens.json", replace(made(Role.OWNER, token), owner=str(owner_named(place, "ada"))))
    with wired(DashboardSettings(place)) as context:
        client = signed_in(application(context), token)
        for path in (f"/works/{sample_work(1)}", "/generations/1", "/search?q=Work"):
            text = client.get(path, headers=HTML).text
            assert ("Ada Artist" in text, "Ben Baker" in text, "Another owner" in text) == (True, False, True), path


def test_a_generator_sees_only_its_own_generations(app: Starlette, tokens: dict[str, str]) -> None:
    assert signed_in(app, tokens["generator"]).get("/generations/1", headers=HTML).status_code == 403


def test_forms_need_their_secret(app: Starlette, tokens: dict[str, str]) -> None:
    client = signed_in(app, tokens["operator"])
    for path in POSTS.values():
        assert client.post(path, data={"reason": "x"}, headers=HTML).status_code == 403
        assert client.post(path, data={"csrf": "wrong"}, headers={**HTML, "x-csrf-token": "x"}).status_code == 403
    assert client.post("/sign-out", data={"csrf": "wrong"}).status_code == 403


def test_a_cookie_that_was_signed_out_is_worth_nothing_in_any_dashboard(data: Path, tokens: dict[str, str]) -> None:
    settings = DashboardSettings(DataLocation(data))
    with wired(settings) as first, wired(settings) as second:
        here, other = (
            signed_in(application(first), tokens["operator"]),
            signed_in(application(first), tokens["operator"]),
        )
        copy = visitor(application(second))
        copy.cookies.update(here.cookies)
        assert copy.get("/overview", headers=HTML).status_code == 200
        assert here.post("/sign-out", data={"csrf": csrf_of(here)}).status_code == 303
        assert copy.get("/overview", headers=HTML).status_code == 303
        assert other.get("/overview", headers=HTML).status_code == 200
    with wired(settings) as later:
        stolen = visitor(application(later))
        stolen.cookies.update(copy.cookies)
        assert stolen.get("/overview", headers=HTML).status_code == 303


def test_a_form_sent_twice_opens_one_dispute(
    data: Path, monkeypatch: pytest.MonkeyPatch, tokens: dict[str, str]
) -> None:
    opened: list[str] = []

    def open_dispute(dispute_id: str, *_: str, **__: str) -> SimpleNamespace:
        opened.append(dispute_id)
        return SimpleNamespace(dispute_id=dispute_id, held_micros=0, sequence=1, more_to_hold=False)

    monkeypatch.setattr("dashboard.pages.owner.attributor_client", lambda _: SimpleNamespace(open_dispute=open_dispute))
    with wired(DashboardSettings(DataLocation(data), server="127.0.0.1:1")) as context:
        client = signed_in(application(context), tokens["operator"])
        paid = client.get("/generations/1", headers=HTML).text.split('href="/works/')[1].split('"')[0]
        for path in (f"/owners/{OWN}", f"/works/{paid}", "/generations/1"):
            page = client.get(path, headers=HTML).text
            fields = {name: hidden(page, name) for name in ("csrf", "dispute_id")} | {"reason": "It is mine."}
            for _ in range(2):
                assert client.post("/disputes", data=fields, headers=HTML).status_code == 200
        for wrong in ("", "-x", "x" * 500):
            assert client.post("/disputes", data=fields | {"dispute_id": wrong}, headers=HTML).status_code == 400
    assert opened[::2] == opened[1::2]
    assert len(set(opened)) == 3


def test_a_wrong_token_is_refused_and_a_revoked_one_ends_its_session(tmp_path: Path) -> None:
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_posting(1)])
    token = new_token()
    add_token(tmp_path / "tokens.json", made(Role.OPERATOR, token))
    with wired(DashboardSettings(DataLocation(tmp_path))) as context:
        app = application(context)
        wrong = visitor(app).post("/sign-in", data={"token": "gmv_wrong"}, headers=HTML)
        assert (wrong.status_code, "not known here" in wrong.text) == (401, True)
        client = signed_in(app, token)
        assert client.get("/overview", headers=HTML).status_code == 200
        (tmp_path / "tokens.json").write_text(json.dumps({"tokens": []}))
        assert client.get("/overview", headers=HTML).status_code == 303


def test_wrong_tokens_of_strangers_lock_no_one_out(data: Path, tokens: dict[str, str]) -> None:
    with wired(DashboardSettings(DataLocation(data))) as context:
        app = application(context)
        stranger, limit = visitor(app), MAX_WRONG_TOKENS_PER_MINUTE
        responses = [stranger.post("/sign-in", data={"token": "gmv_wrong"}) for _ in range(limit + 2)]
        assert [response.status_code for response in responses] == [401] * limit + [429] * 2
        assert signed_in(app, tokens["operator"]).get("/overview", headers=HTML).status_code == 200


def test_the_limit_of_wrong_tokens_ends_with_its_minute() -> None:
    now = 100.0
    limit = RateLimit(2, period_s=60.0, clock=lambda: now)
    assert [limit.allow() for _ in range(3)] == [True, True, False]
    now = 159.9
    assert not limit.allow()
    now = 160.0
    assert [limit.allow() for _ in range(3)] == [True, True, False]


def test_the_old_name_of_the_database_option_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_PASSWORD_FILE", raising=False)
    place = DataLocation(Path("data"), "postgresql://host/ledger")
    assert location_of(place, "") == place
    assert location_of(DataLocation(Path("data")), "postgresql://host/ledger") == place
    assert location_of(place, "other") == DataLocation(Path("other"))


def test_a_session_that_was_tampered_with_is_none(app: Starlette, tokens: dict[str, str]) -> None:
    cookie = signed_in(app, tokens["operator"]).cookies["gmv_session"]
    headers = {"accept": "application/json", "cookie": f"gmv_session={cookie[:-4]}AAAA"}
    assert visitor(app).get("/overview", headers=headers).status_code == 401


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x"])
def test_signing_in_leads_nowhere_else(app: Starlette, tokens: dict[str, str], target: str) -> None:
    response = visitor(app).post("/sign-in", data={"token": tokens["operator"], "next": target})
    assert response.headers["location"] == "/"


def test_answers_carry_the_policy_and_cookies_are_kept_from_scripts(app: Starlette, tokens: dict[str, str]) -> None:
    response = visitor(app).post("/sign-in", data={"token": tokens["operator"]})
    assert "HttpOnly" in response.headers["set-cookie"]
    assert "samesite=lax" in response.headers["set-cookie"].lower()
    for path in ("/", "/static/app.css", "/nowhere", "/sign-in"):
        policy = visitor(app).get(path, headers=HTML).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_without_tokens_only_this_machine_has_access(tmp_path: Path) -> None:
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_posting(1)])
    with (
        pytest.raises(PreconditionFailed, match="can be reached from other machines"),
        wired(DashboardSettings(DataLocation(tmp_path), address="0.0.0.0:0")),
    ):
        pass
    with wired(DashboardSettings(DataLocation(tmp_path))) as context:
        local = visitor(application(context))
        assert "as operator" in local.get("/overview", headers=HTML).text
        assert local.get("/overview", headers={**HTML, "host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.7:0", "studio.example:0"])
def test_with_tokens_it_listens_beyond_loopback_only_where_it_is_told_to(
    data: Path, tokens: dict[str, str], address: str
) -> None:
    assert tokens
    settings = DashboardSettings(DataLocation(data), address=address)
    with pytest.raises(PreconditionFailed, match="in the clear"), wired(settings):
        pass
    for chosen in (replace(settings, insecure=True), replace(settings, secure_cookies=True)):
        with wired(chosen) as context:
            assert not context.sessions.open


@pytest.mark.parametrize(
    ("address", "host", "status"),
    [
        ("0.0.0.0:0", "studio.example", 200),
        ("[::]:0", "studio.example", 200),
        ("192.0.2.7:0", "192.0.2.7:8080", 200),
        ("192.0.2.7:0", "studio.example", 400),
    ],
)
def test_an_insecure_dashboard_accepts_the_host_it_listens_on(
    tmp_path: Path, address: str, host: str, status: int
) -> None:
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_posting(1)])
    with wired(DashboardSettings(DataLocation(tmp_path), address=address, insecure=True)) as context:
        local = visitor(application(context))
        assert local.get("/overview", headers={**HTML, "host": host}).status_code == status


@pytest.mark.parametrize(
    "path",
    ["/owners/x", "/works/x", "/generations/x", "/generations/-1", "/pictures/generations/../../tokens.json",
     "/pictures/generations/x", "/pictures/generations/77777",
     "/pictures/works/..%2f..%2ftokens.json", f"/owners/{uuid.UUID(int=7)}/statements/x", "/search?q=" + "x" * 300],
)  # fmt: skip
def test_what_names_nothing_is_refused(app: Starlette, tokens: dict[str, str], path: str) -> None:
    assert signed_in(app, tokens["operator"]).get(path, headers=HTML).status_code in (400, 404)


def test_search_finds_a_generation_by_its_id(app: Starlette, tokens: dict[str, str]) -> None:
    client: Any = signed_in(app, tokens["auditor"])
    assert client.get("/search?q=image-7", headers=HTML).headers["location"] == "/generations/7"


def test_a_works_page_shows_its_group_and_an_owner_only_that_there_is_one(
    app: Starlette, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = next(number for number in range(100) if sample_card(number).beneficiaries[0].account == f"owner:{OWN}")
    paths = [f"/works/{sample_work(number)}" for number in range(own, 100, 7)]
    operator, owner = signed_in(app, tokens["operator"]), signed_in(app, tokens["owner"])
    path = next(path for path in paths if owner.get(path, headers=HTML).status_code == 200)
    assert "Unknown: the index" in operator.get(path, headers=HTML).text
    monkeypatch.setattr(NearDuplicates, "lookup", lambda *_: DuplicateGroup([sample_work(3)], True))
    assert f'href="/works/{sample_work(3)}"' in operator.get(path, headers=HTML).text
    text = owner.get(path, headers=HTML).text
    assert "A near-duplicate" in text
    assert str(sample_work(3)) not in text
    monkeypatch.setattr(NearDuplicates, "lookup", lambda *_: DuplicateGroup([], True))
    assert "no other work in the index" in operator.get(path, headers=HTML).text


@pytest.fixture(scope="module")
def collage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A dashboard of one posting, whose image shows two works in parts of it."""
    folder = tmp_path_factory.mktemp("collage")
    with open_ledger(folder, write=True) as ledger:
        ledger.post([sample_collage()])
    with wired(DashboardSettings(DataLocation(folder))) as context:
        yield visitor(application(context))


def test_the_page_of_an_image_shows_each_works_region_in_both(collage: TestClient) -> None:
    text = collage.get("/generations/1", headers=HTML).text
    assert "Where the works are visible" in text
    for number in (1, 2):
        # A link from the region to the work, and a name for it, so that neither script nor pointer is needed.
        assert re.search(rf'<a class="region" href="#seen-{number}" data-seen="{number}" aria-label="{number}: ', text)
        assert f'<li id="seen-{number}" data-seen="{number}">' in text
        assert f'<tr data-seen="{number}">' in text
    assert "visible in 67\N{NARROW NO-BREAK SPACE}% of the image, 24 matches" in text
    assert "style=" not in text.split("<main", 1)[1]
    assert "Most goes to" in text


def test_the_regions_of_every_number_can_be_pointed_at(collage: TestClient) -> None:
    style = collage.get("/static/app.css").text
    for number in range(1, MAX_DRAWN + 1):
        assert style.count(f'main:has([data-seen="{number}"]:is(:hover, :focus-within, :target))') == 3


def test_the_page_of_an_image_valued_as_a_whole_has_no_regions(app: Starlette, tokens: dict[str, str]) -> None:
    text = signed_in(app, tokens["operator"]).get("/generations/1", headers=HTML).text
    assert "Where the works are visible" not in text
    assert "Weight w" in text


def test_an_owner_sees_only_the_regions_of_their_own_works(tmp_path: Path) -> None:
    token = new_token()
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_collage()])
    owner = str(sample_owner(0))
    add_token(tmp_path / "tokens.json", replace(made(Role.OWNER, token), owner=owner))
    with wired(DashboardSettings(DataLocation(tmp_path))) as context:
        text = signed_in(application(context), token).get("/generations/1", headers=HTML).text
    assert f'href="/works/{sample_work(0)}"' in text
    assert 'data-seen="1"' in text
    assert 'data-seen="2"' not in text
    assert str(sample_work(1)) not in text
