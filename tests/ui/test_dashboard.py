"""The embedded dashboard shows studies and lets nobody change them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    return client_of(tmp_path)


def client_of(*settings, **more) -> TestClient:
    return TestClient(Starlette(routes=Dashboard(*settings, **more).routes()))


def names(client: TestClient) -> list[str]:
    return [one["study_name"] for one in client.get("/api/studies").json()["study_summaries"]]


def test_every_page_that_the_dashboard_has_is_shown(client):
    for path in ("/dashboard", "/dashboard/studies/1", "/dashboard/studies/1/trials"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "Optuna Dashboard" in answer.text
        assert '[aria-label="delete study"]' in answer.text  # the buttons for what is refused are hidden
        assert "unsafe-inline" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-cache"
        assert "x-frame-options" not in answer.headers  # it is shown in a frame
    assert client.get("/api/meta").json()["allow_unsafe"] is False
    assert names(client) == ["mine"]
    assert client.get("/api/studies/1").json()["trials"][0]["values"] == [0.75]
    assert client.get("/csv/1").text.splitlines()[1].startswith("0,COMPLETE,0.75")
    assert client.get("/static/bundle.js").content == (Path(STATIC_DIR) / "bundle.js").read_bytes()
    assert client.get("/static/bundle.js", headers={"accept-encoding": ""}).status_code == 200
    assert client.head("/dashboard").status_code == 200
    for path in ("/static/../_app.py", "/static/other.js", "/", "/incompatible-rdb-schema"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH", "OPTIONS"])
def test_what_would_change_something_is_refused_and_the_study_lives(client, study, method):
    for path in ("studies/1", "studies", "studies/1/rename", "trials/0/tell", "../dashboard"):
        told = {"study_name": "theirs", "directions": ["minimize"]}
        answer = client.request(method, f"/api/{path}", json=told)
        assert answer.status_code == 405
        assert "read-only" in answer.json()["reason"]
        assert answer.headers["allow"] == "GET, HEAD"
    for header in ("x-http-method-override", "x-http-method", "x-method-override"):
        assert client.get("/api/studies/1", headers={header: method}).status_code == 200
    assert names(client) == ["mine"]
    assert len(study.trials) == 1


def test_an_operator_can_let_everything_through(study, tmp_path):
    client = client_of(tmp_path, writable=True)
    assert "delete study" not in client.get("/dashboard").text
    assert client.delete("/api/studies/1").status_code == 204
    assert names(client) == []


def test_studies_are_shown_from_another_database_or_it_is_said_without_its_address(tmp_path):
    assert names(client_of(tmp_path / "studies")) == []  # before the first study
    address = f"sqlite:///{tmp_path}/others.db"
    optuna.create_study(storage=open_storage(address), study_name="mine")
    assert names(client_of(tmp_path, address)) == ["mine"]
    answer = client_of(tmp_path, "sqlite:////nowhere/secret.db").get("/api/studies")
    assert answer.status_code == 503
    assert "secret" not in answer.text


def test_making_the_routes_does_not_import_optuna():
    code = (
        "import sys; from pathlib import Path; from ser.ui.dashboard import Dashboard; Dashboard(Path()).routes();"
        "print([name for name in ('optuna', 'optuna_dashboard', 'torch') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
    assert len(PATHS) == 5
