"""The embedded dashboard shows studies and lets nobody change them."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest
from optuna_dashboard._app import STATIC_DIR
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ser.tuning.storage import default_storage, open_storage
from ser.ui.dashboard import PATHS, Dashboard


@pytest.fixture
def study(tmp_path) -> optuna.Study:
    study = optuna.create_study(storage=open_storage(default_storage(tmp_path)), study_name="mine")
    study.add_trial(optuna.create_trial(value=0.75, user_attrs={"note": "first"}))
    return study


@pytest.fixture
def client(study, tmp_path) -> TestClient:
    return TestClient(Starlette(routes=Dashboard(tmp_path).routes()))


def test_every_page_that_the_dashboard_has_is_shown(client):
    for path in ("/dashboard", "/dashboard/studies/1", "/dashboard/studies/1/trials"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "Optuna Dashboard" in answer.text
        assert "unsafe-inline" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-cache"
        assert "x-frame-options" not in answer.headers  # it is shown in a frame
    assert client.get("/api/meta").json()["allow_unsafe"] is False
    assert [one["study_name"] for one in client.get("/api/studies").json()["study_summaries"]] == ["mine"]
    assert client.get("/api/studies/1").json()["trials"][0]["values"] == [0.75]
    assert client.get("/csv/1").text.splitlines()[1].startswith("0,COMPLETE,0.75")
    with open(f"{STATIC_DIR}/bundle.js", "rb") as script:  # noqa: PTH123
        assert client.get("/static/bundle.js").content == script.read()
    assert client.get("/static/bundle.js", headers={"accept-encoding": ""}).status_code == 200
    assert client.head("/dashboard").status_code == 200


@pytest.mark.parametrize("path", ["/static/../_app.py", "/static/other.js", "/", "/incompatible-rdb-schema"])
def test_other_routes_of_the_dashboard_are_not_served(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/api/studies/1", "/api/studies", "/api/studies/1/rename", "/api/trials/0/tell", "/dashboard"]
)
def test_what_would_change_something_is_refused_and_the_study_lives(client, study, method, path):
    answer = client.request(method, path, json={"study_name": "theirs", "directions": ["minimize"]})
    assert answer.status_code == 405
    assert "read-only" in answer.json()["reason"]
    assert answer.headers["allow"] == "GET, HEAD"
    assert [one["study_name"] for one in client.get("/api/studies").json()["study_summaries"]] == ["mine"]
    assert len(study.trials) == 1


@pytest.mark.parametrize("header", ["x-http-method-override", "x-http-method", "x-method-override"])
def test_a_method_in_a_header_changes_nothing(client, header):
    assert client.get("/api/studies/1", headers={header: "DELETE"}).status_code == 200
    assert client.get("/api/studies/1").status_code == 200


def test_an_operator_can_let_everything_through(study, tmp_path):
    client = TestClient(Starlette(routes=Dashboard(tmp_path, writable=True).routes()))
    assert "delete study" not in client.get("/dashboard").text
    assert client.delete("/api/studies/1").status_code == 204
    assert client.get("/api/studies").json()["study_summaries"] == []


def test_the_buttons_for_what_is_refused_are_hidden(client):
    assert '[aria-label="delete study"]' in client.get("/dashboard").text


def test_a_storage_that_cannot_be_read_is_said_without_its_address(tmp_path):
    client = TestClient(Starlette(routes=Dashboard(tmp_path, "sqlite:////nowhere/secret.db").routes()))
    answer = client.get("/api/studies")
    assert answer.status_code == 503
    assert "secret" not in answer.text


def test_studies_are_shown_from_another_database(tmp_path):
    address = f"sqlite:///{tmp_path}/others.db"
    optuna.create_study(storage=open_storage(address), study_name="mine")
    client = TestClient(Starlette(routes=Dashboard(tmp_path, address).routes()))
    assert [one["study_name"] for one in client.get("/api/studies").json()["study_summaries"]] == ["mine"]


def test_whoever_looks_before_the_first_study_sees_none(tmp_path):
    client = TestClient(Starlette(routes=Dashboard(tmp_path / "studies").routes()))
    assert client.get("/api/studies").json()["study_summaries"] == []


def test_making_the_routes_does_not_import_optuna():
    code = (
        "import sys; from pathlib import Path; from ser.ui.dashboard import Dashboard; Dashboard(Path()).routes();"
        "print([name for name in ('optuna', 'optuna_dashboard', 'torch') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
    assert len(PATHS) == 5
