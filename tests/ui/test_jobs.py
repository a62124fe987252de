"""Background runs, with real processes; a toy stands in for `python -m ser`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ser
from ser.ui import jobs
from ser.ui.training_texts import Problem

TOY = """
import atexit, signal, subprocess, sys, time
def tidy(*_):
    print("put in order", flush=True)
    sys.exit(1)
def fail():
    sys.exit(print("ser: The corpus has 3 speakers, 5 folds need 5.\\n", file=sys.stderr) or 1)
def progress():
    from ser.cli.prepare import Stage
    stage = Stage("features")
    for done in range(2, 10):
        stage(done, 9)
def child():
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(sleeper.pid, flush=True)
print("toy begins", flush=True)
task = sys.argv[1]
before = {
    "deaf": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN), "tidy": lambda: signal.signal(signal.SIGTERM, tidy),
    "child": child, "fail": fail, "progress": progress, "linger": lambda: atexit.register(time.sleep, 1.5),
    "crash": lambda: 1 / 0,
}
before.get(task, int)()
if task in ("deaf", "tidy"):
    print("ready", flush=True)
if task in ("sleep", "deaf", "tidy", "child"):
    time.sleep(600)
print("done", *sys.argv[2:])
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for jobs; `python -m ser` there is the toy, and no job is left over."""
    package = tmp_path / "path" / "ser"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(TOY)
    (package / "__init__.py").write_text(f"__path__.append({str(Path(ser.__file__).parent)!r})")
    monkeypatch.chdir(package.parent)
    monkeypatch.setattr(jobs, "PACKAGE_PARENT", package.parent)
    runs = tmp_path / "runs"
    yield runs
    for job in runs.glob("*/job.json"):
        jobs.stop(job.parent, grace_s=0)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def ended(folder: Path) -> jobs.JobStatus:
    wait_for(lambda: not jobs.is_running(folder))
    return jobs.look(folder)


def begun(folder: Path, task: str, word: str = "ready") -> int:
    """The process id of a job, once it has said the word."""
    pid = jobs.start([task], folder)
    wait_for(lambda: word in (folder / "log.txt").read_text())
    return pid


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rsplit(")", 1)[1].split()[0] != "Z"


def killed(folder: Path) -> jobs.JobStatus:
    """What is said of a job that was killed from outside."""
    os.kill(begun(folder, "sleep", "toy begins"), signal.SIGKILL)
    return ended(folder)


def test_a_job_runs_to_its_end_keeps_its_words_and_leaves_no_zombie(toy):
    pid = jobs.start(["go", "--out", "a b"], toy / "a")
    status = ended(toy / "a")
    assert status == jobs.JobStatus("finished", 0, "done --out a b", pid, ("go", "--out", "a b"))
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    wait_for(lambda: f"job {pid}" not in [thread.name for thread in threading.enumerate()])


@pytest.mark.parametrize(
    ("task", "reason"), [("fail", "The corpus has 3 speakers, 5 folds need 5."), ("crash", "ZeroDivisionError")]
)
def test_a_failed_job_gives_the_reason_in_its_own_words_or_the_name_of_the_error(toy, task, reason):
    jobs.start([task], toy / "a")
    status = ended(toy / "a")
    assert (status.state, status.exit_code) == ("failed", 1)
    assert status.reason == reason if task == "fail" else reason in status.reason


def test_a_job_that_is_stopped_may_put_its_things_in_order_or_is_killed(toy):
    begun(toy / "a", "tidy")
    status = jobs.stop(toy / "a")
    assert (status.state, status.exit_code, status.reason) == ("stopped", 1, "put in order")
    pid = begun(toy / "b", "deaf")
    status = jobs.stop(toy / "b", grace_s=0.1)
    assert (status.state, status.exit_code) == ("stopped", None)
    wait_for(lambda: not is_alive(pid))


def test_a_folder_is_deleted_unless_a_job_runs_there(toy):
    jobs.start(["sleep"], toy / "a")
    with pytest.raises(Problem, match="still running"):
        jobs.remove(toy / "a")
    assert jobs.stop(toy / "a").state == "stopped"  # at the very start
    jobs.remove(toy / "a")
    assert not (toy / "a").exists()


def test_the_children_of_a_job_are_stopped_with_it(toy):
    jobs.start(["child"], toy / "a")
    wait_for(lambda: jobs.last_line(toy / "a" / "log.txt").isdigit())
    child = int(jobs.last_line(toy / "a" / "log.txt"))
    assert is_alive(child)
    jobs.stop(toy / "a")
    wait_for(lambda: not is_alive(child))


def test_a_job_killed_from_outside_is_a_failure_that_says_so_and_can_be_started_again(toy):
    status = killed(toy / "a")
    assert (status.state, status.exit_code, status.reason) == ("failed", None, "toy begins")
    jobs.start(["go"], toy / "a")
    assert ended(toy / "a").state == "finished"
    assert (toy / "a" / "log.txt").read_text().count("toy begins") == 2  # its log goes on


def test_of_many_starts_at_once_one_succeeds_and_another_server_cannot_start_it_too(toy):
    def press(_: int) -> str:
        try:
            return str(jobs.start(["sleep"], toy / "a"))
        except Problem as error:
            return str(error)

    def watch() -> None:
        for _ in range(200):
            jobs.look(toy / "a")

    with ThreadPoolExecutor(10) as pool:
        watchers = [pool.submit(watch) for _ in range(2)]
        said = list(pool.map(press, range(8)))
        [watcher.result() for watcher in watchers]
    assert sum("already running" in words for words in said) == 7
    assert sum(words.isdigit() for words in said) == 1
    start = f"from pathlib import Path; from ser.ui import jobs; jobs.start(['sleep'], Path({str(toy / 'a')!r}))"
    other = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)
    assert "already running" in other.stderr


def test_a_job_outlives_the_server_and_the_next_one_sees_and_stops_it(toy):
    script = (
        "import os, signal; from ser.ui import jobs\n"
        f"from pathlib import Path; jobs.start(['sleep'], Path({str(toy / 'a')!r}), Path({str(toy)!r}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    server = subprocess.run([sys.executable, "-c", script], check=False)
    assert server.returncode == -signal.SIGKILL
    wait_for(lambda: "toy begins" in (toy / "a" / "log.txt").read_text())
    status = jobs.look(toy / "a")
    assert status.state == "running"
    with pytest.raises(Problem, match="only one can run at a time"):
        jobs.start(["sleep"], toy / "b", one_at_a_time=toy)
    assert jobs.stop(toy / "a").state == "stopped"
    wait_for(lambda: not is_alive(status.pid or 0))


def test_one_job_at_a_time_runs_and_the_next_may_when_it_has_ended(toy):
    jobs.start(["sleep"], toy / "a", one_at_a_time=toy)
    assert jobs.is_running(toy)
    with pytest.raises(Problem, match="only one can run at a time"):
        jobs.start(["go"], toy / "b", one_at_a_time=toy)
    assert jobs.look(toy / "b").state == "never"
    jobs.stop(toy / "a")
    jobs.start(["go"], toy / "b", one_at_a_time=toy)
    assert ended(toy / "b").state == "finished"


def test_a_process_id_given_to_another_process_is_not_mistaken_for_the_job(toy):
    idle = [sys.executable, "-c", "import time; time.sleep(600)"]
    bystander = subprocess.Popen(idle, start_new_session=True)
    try:
        killed(toy / "a")
        job = toy / "a" / "job.json"
        job.write_text(json.dumps(json.loads(job.read_text()) | {"pid": bystander.pid}))
        assert jobs.look(toy / "a").state == "failed"
        assert jobs.stop(toy / "a", grace_s=0).state == "failed"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_folder_without_a_job_or_with_a_damaged_one_says_so(toy):
    assert jobs.look(toy / "a").state == "never"
    assert not jobs.ask_to_stop(toy / "a")
    assert jobs.stop(toy / "a").state == "never"
    (toy / "a").mkdir(parents=True)
    (toy / "a" / "job.json").write_text('{"pid": ')
    assert jobs.look(toy / "a").state == "never"
    jobs.start(["go"], toy / "a")
    assert ended(toy / "a").state == "finished"


def test_a_folder_that_cannot_be_written_is_an_error_with_a_sentence(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="cannot be started") as raised:
        jobs.start(["go"], tmp_path / "file" / "a")
    assert str(tmp_path) not in str(raised.value)
    assert raised.value.in_words("fa").startswith("آغاز نشد")


def test_a_job_runs_until_its_process_has_gone_and_can_be_started_again_at_once(toy):
    jobs.start(["linger"], toy / "a", one_at_a_time=toy)
    wait_for(lambda: "exit_code" in (jobs.read_json(toy / "a" / jobs.JOB) or {}))
    assert jobs.look(toy / "a").state == "running"
    wait_for(lambda: jobs.look(toy / "a").state == "finished")
    jobs.start(["go"], toy / "a", one_at_a_time=toy)
    assert ended(toy / "a").state == "finished"


def test_a_job_says_how_far_it_is_and_forgets_it_when_it_is_started_again(toy):
    jobs.start(["progress"], toy / "a")
    assert ended(toy / "a").state == "finished"
    stage = jobs.read_json(toy / "a" / jobs.STAGE) or {}
    assert [stage.get(name) for name in ("stage", "first", "done", "total")] == ["features", 2, 9, 9]
    jobs.start(["go"], toy / "a")
    ended(toy / "a")
    assert jobs.read_json(toy / "a" / jobs.STAGE) is None


def test_the_last_line_of_a_log_is_readable(tmp_path):
    log = tmp_path / "log.txt"
    assert jobs.last_line(log) == ""
    log.write_bytes(b"first\n" + b"x" * 20_000 + b"\r 50 %\r\x1b[1mlast \xff\x00\n\n")
    assert jobs.last_line(log) == "[1mlast \ufffd"
