"""`python app.py` as a Space runs it: another user, a checkout nobody can write to, no HOME, a hub that hangs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from hub_server import running_hub
from support import ROOT, free_port, write_corpus
from ui_support import recording, tiny_model

from ser.ui import jobs

USER = 1000
# Another user who may write where that user may, and read everything: root's Python can be in root's home.
READ_ALL = "+dac_read_search"
AS_USER: list[str] = []
if os.geteuid() == 0:
    AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups",
               f"--inh-caps={READ_ALL}", f"--ambient-caps={READ_ALL}"]  # fmt: skip
PATIENCE_S = 300
PARTS = ("app.py", "ser", "assets", "checkpoints", "requirements.txt", "README.md", "pyproject.toml", "LICENSE")
TRAINING = ["--max-epochs", "300", "--patience", "300", "--base-units", "16", "--final-units", "16", "--folds", "3"]

pytestmark = pytest.mark.slow


@dataclass
class Service:
    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    environment: dict[str, str]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def data(self) -> Path:
        return self.folder / "data"


def make_home(folder: Path) -> None:
    """A checkout nobody can write to, a model, and folders of the other user."""
    checkout = folder / "checkout"
    checkout.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, checkout / part)
    for bytecode in list(checkout.rglob("__pycache__")):
        shutil.rmtree(bytecode)
    tiny_model(folder / "model")
    for name in ("home", "tmp", "data"):
        (folder / name).mkdir()
    for path in folder.rglob("*"):
        if os.geteuid() == 0:
            os.chown(path, USER, USER)
        if path.is_relative_to(checkout):
            path.chmod(path.stat().st_mode & ~0o222)
    checkout.chmod(0o555)
    (folder / "tmp" / "gradio").mkdir(mode=0o700)  # as another user of the machine may have left it


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    if AS_USER and not shutil.which("setpriv"):
        pytest.skip("root becomes another user by setpriv, which is not on the PATH")
    if AS_USER and subprocess.run([*AS_USER, sys.executable, "-c", ""], capture_output=True).returncode:
        pytest.skip("this machine lets root not become another user that may read its Python")
    make_home(folder)
    port = free_port()
    with running_hub() as hub, (folder / "log").open("wb") as log:
        hub.fault = "hang"
        environment = {
            "PATH": os.environ["PATH"], "TMPDIR": str(folder / "tmp"),
            "SER_DATA": str(folder / "data"), "SER_CHECKPOINT": str(folder / "model" / "classifier"),
            "SPACE_ID": "someone/space", "GRADIO_SERVER_PORT": str(port), "HF_ENDPOINT": hub.url,
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [*AS_USER, sys.executable, folder / "checkout" / "app.py"]
        process = subprocess.Popen(command, env=environment, cwd=folder / "home", stdout=log, stderr=log)
        service = Service(process, f"http://127.0.0.1:{port}/", folder, environment)
        try:
            wait_until(lambda: process.poll() is not None or health(service).get("model") == "ready")
            assert process.poll() is None, service.log
            yield service
        finally:
            process.kill()
            process.wait()


def health(service: Service) -> dict[str, str]:
    try:
        return dict(httpx.get(f"{service.url}healthz", timeout=10).json())
    except (httpx.HTTPError, ValueError):
        return {}


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_it_answers_while_the_hub_hangs(service, tmp_path):
    from gradio_client import Client, handle_file

    assert health(service) == {"status": "ok", "model": "ready"}
    client = Client(service.url, verbose=False)
    clip = recording(tmp_path / "my voice, Tehran.wav")
    assert client.predict(handle_file(str(clip)), api_name="/recognise")["probabilities"]


def test_what_it_writes_is_for_its_own_user(service):
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    assert os.geteuid() or re.search(rf"^Uid:\t{USER}\t{USER}\t{USER}", status, re.MULTILINE)
    uploads = next((service.folder / "tmp").glob("ser-uploads-*"))
    assert uploads.stat().st_mode & 0o077 == 0
    assert not list((service.folder / "checkout").rglob("__pycache__"))


def test_its_log_is_one_line_an_event_without_the_recordings_name(service):
    lines = service.log.splitlines()
    for event in ("ready", "answered"):
        assert any(f"event={event}" in line for line in lines)
    assert [line for line in lines if not re.match(r"time=\S+ level=\w+ event=\w+", line)] == []
    assert "Tehran" not in service.log
    assert "127.0.0.1" not in service.log.replace(service.url, "")


def test_told_to_end_it_ends_and_its_job_stops_after_the_epoch_and_goes_on_later(service):
    run = service.data / "runs" / "crossval-20261120-101112-tiny"
    words = {"corpus": tiny_corpus(service), "encoder": service.folder / "model" / "encoder", "out": run,
             "cache": service.data / "features"}  # fmt: skip
    command = ["crossval", *(str(word) for name, value in words.items() for word in (f"--{name}", value)), *TRAINING]
    start = (
        "import json, sys; from pathlib import Path; from ser.ui import jobs; "
        "command, run, data = json.loads(sys.argv[1]); "
        "jobs.start(command, Path(run), Path(data))"
    )
    argument = json.dumps([command, str(run), str(service.data)])
    paths = service.environment | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*AS_USER, sys.executable, "-c", start, argument], env=paths, check=True)
    wait_until(lambda: epochs(run) >= 2 or jobs.look(run).state == "failed")
    assert jobs.look(run).state == "running", jobs.look(run)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in service.log
    assert not list((service.folder / "tmp").glob("ser-uploads-*"))
    wait_until(lambda: not jobs.is_running(run))
    assert jobs.look(run).state == "stopped"
    done = epochs(run)
    assert done < 300
    jobs.start(command, run)
    wait_until(lambda: epochs(run) > done or jobs.look(run).state == "failed")
    assert jobs.stop(run).state == "stopped", jobs.look(run)
    assert len(re.findall(r"^ +1 +1 ", (run / "log.txt").read_text(), re.MULTILINE)) == 1  # not begun anew


def epochs(run: Path) -> int:
    try:
        return int(json.loads((run / "progress.json").read_text())["epoch"])
    except (OSError, ValueError, KeyError):
        return 0


def tiny_corpus(service: Service) -> Path:
    """A corpus that the other user may read."""
    folder = write_corpus(service.folder / "corpus", n_speakers=9, per_emotion=2)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder
