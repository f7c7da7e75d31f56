"""compose.yaml: valid by the Compose specification's schema, closed by default, and in commands that exist."""

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography import x509

from attributor.settings import AttributorSettings
from gmvaluator.auth.listening import check_address
from gmvaluator.errors import GmvaluatorError
from tests.checks.deployed import DEPLOY, parse, read_yaml, without_variables

# From the package check-jsonschema (Apache-2.0); the schema is the Compose specification's (Apache-2.0).
SCHEMA = json.loads(files("check_jsonschema.builtin_schemas.vendor").joinpath("compose-spec.json").read_text("utf-8"))
FILES = ("compose.yaml", "compose.gpu.yaml")
COMPOSE: dict[str, Any] = read_yaml("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "gmvaluator" in service["image"]]


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_valid_by_the_specifications_schema(name: str) -> None:
    jsonschema.validate(read_yaml(name), SCHEMA)


def test_the_schema_finds_faults() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"a": {"image": "b", "read_olny": True}}}, SCHEMA)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_closed(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service
    assert all(port.startswith(("127.0.0.1:", "${GMV_LISTEN:-127.0.0.1}:")) for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned_and_a_program_that_stays_is_looked_after(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":v?\d+\.\d+\.?\d*[\w.-]*$", without_variables(service["image"])), service["image"]
    assert (service["restart"] == "unless-stopped") == ("test" in service["healthcheck"])


def test_only_what_needs_them_reaches_the_stores() -> None:
    assert COMPOSE["networks"]["back"] == {"internal": True}
    assert [name for name in ("qdrant", "postgres") if SERVICES[name]["networks"] != ["back"]] == []
    assert SERVICES["grafana"]["networks"] == ["front"]


def test_secrets_come_from_files_alone() -> None:
    assert all(secret.keys() == {"file"} for secret in COMPOSE["secrets"].values())
    named = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert named == COMPOSE["secrets"].keys()
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            assert not re.search(r"PASSWORD|KEY|TOKEN|SECRET", variable) or value.startswith("/run/secrets/"), variable
        mounted = {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}
        assert set(re.findall(r"/run/secrets/[\w.]+", json.dumps(service))) <= mounted


def test_dependencies_are_there_and_can_be_waited_for() -> None:
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            other = SERVICES[name]
            healthy = how["condition"] == "service_healthy"
            assert healthy == (other["restart"] == "unless-stopped")
            assert how["condition"] in ("service_healthy", "service_completed_successfully")


@pytest.mark.parametrize("name", [name for name in OURS if "command" in SERVICES[name]])
def test_a_command_is_one_of_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DATABASE_PASSWORD_FILE", "QDRANT_API_KEY_FILE"):
        monkeypatch.delenv(variable, raising=False)
    words = [without_variables(word) for word in SERVICES[name]["command"]]
    assert parse(words)


def test_the_attributor_has_time_to_drain_and_answers_its_own_probe() -> None:
    attributor = SERVICES["attributor"]
    settings = parse(attributor["command"])
    assert int(attributor["stop_grace_period"].removesuffix("s")) > AttributorSettings(Path()).drain_s + 10
    for option in ("address", "health", "metrics"):
        check_address(settings[option])
    assert settings["health"].endswith(attributor["healthcheck"]["test"][-1].rpartition(":")[2])
    with pytest.raises(GmvaluatorError):
        check_address("0.0.0.0")


def test_what_prometheus_scrapes_is_there() -> None:
    jobs = read_yaml("prometheus/prometheus.yml")["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"][0] for job in jobs}
    ports = {"attributor": parse(SERVICES["attributor"]["command"])["metrics"], "dashboard": "8080", "qdrant": "6333"}
    assert targets == {name: f"{name}:{port.rpartition(':')[2]}" for name, port in ports.items()}
    assert targets.keys() <= SERVICES.keys()


def test_files_that_are_mounted_are_in_the_checkout() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    sources = {without_variables(mount).split(":")[0] for mount in mounts}
    made = {"./models"}  # by whoever fetches weights
    for source in sources - COMPOSE["volumes"].keys() - made:
        assert (DEPLOY / source).exists(), source


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    (source,) = read_yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = read_yaml("grafana/provisioning/dashboards/gmvaluator.yaml")["providers"]
    mounted = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert any(path.startswith(provider["options"]["path"] + "/") for path in mounted)


def test_the_secrets_can_be_made_once_and_only_once(tmp_path: Path) -> None:
    command = [str(DEPLOY / "secrets.sh"), str(tmp_path / "secrets"), "gpu.example", "10.1.2.3"]
    subprocess.run(command, check=True, capture_output=True)
    folder = tmp_path / "secrets"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    subprocess.run(command, check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    made_later = {"prometheus_token"}
    assert COMPOSE["secrets"].keys() - made_later == first.keys() - {"authority.key"}
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "authority.key").stat().st_mode & 0o077 == 0
    certificate = x509.load_pem_x509_certificate(first["attributor.crt"])
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(first["authority.crt"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == {"attributor", "localhost", "127.0.0.1", "gpu.example", "10.1.2.3"}
