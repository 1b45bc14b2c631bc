"""One owner per folder: what is refused, what a process that is gone leaves, and the clock of another machine."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssdnorm import ownership
from ssdnorm.ownership import owned_folder

HOLD = """
import sys, time
from pathlib import Path
from ssdnorm.ownership import owned_folder
with owned_folder(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(ownership, "PATIENCE_SECONDS", 0.0)


def claims(folder):
    return list(folder.glob(".owner.*"))


def test_an_owned_folder_is_made_and_removed_again_if_nothing_came_into_it(tmp_path):
    with owned_folder(tmp_path / "a" / "b"):
        assert len(claims(tmp_path / "a" / "b")) == 1
    assert not (tmp_path / "a").exists()
    with owned_folder(tmp_path / "a"):
        (tmp_path / "a" / "file").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_that_can_never_be_made_is_refused(impatient):
    with pytest.raises(OSError, match="No such file or directory: '/proc/x'"), owned_folder(Path("/proc/x")):
        pass


def test_a_second_owner_is_refused_by_name_until_the_first_is_killed(tmp_path, impatient):
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "owned\n"
        with pytest.raises(ValueError, match=f"in use by process {first.pid} on "), owned_folder(tmp_path):
            pass
        assert len(claims(tmp_path)) == 1, "the refused one leaves nothing"
        first.send_signal(signal.SIGKILL)
        first.wait()
        with owned_folder(tmp_path):
            assert len(claims(tmp_path)) == 1
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    assert not claims(tmp_path)


def test_the_same_process_does_not_own_a_folder_twice(tmp_path):
    with owned_folder(tmp_path), pytest.raises(ValueError, match="this very process"), owned_folder(tmp_path):
        pass


def test_an_owner_on_another_machine_is_judged_by_its_heartbeat_and_the_clock_of_the_file_system(tmp_path, impatient):
    other = tmp_path / ".owner.node7.123.456.0123456789ab"
    other.touch()
    message = r"process 123 on node7 \(if that is gone, wait 5 minutes, or delete \.owner"
    with pytest.raises(ValueError, match=message), owned_folder(tmp_path):
        pass
    old = time.time() - ownership.STALE_SECONDS - 5
    os.utime(other, (old, old))
    with owned_folder(tmp_path):
        assert not other.exists()


def test_a_process_with_the_number_of_one_that_is_gone_is_not_taken_for_it(tmp_path):
    if not os.path.exists("/proc/self/stat"):
        pytest.skip("without /proc nothing tells when a process began")
    started = ownership._start_of(os.getpid())
    stale = tmp_path / f".owner.here.{os.getpid()}.{started - 1}.{ownership._machine()}"
    stale.touch()
    with owned_folder(tmp_path):
        assert not stale.exists()


def hold_and_lose(folder):
    with owned_folder(folder):
        (claim,) = claims(folder)
        os.utime(claim, (0, 0))
        while claim.stat().st_mtime == 0:
            time.sleep(0.01)
        claim.unlink()
        while True:
            time.sleep(0.01)


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_the_heartbeat_touches_the_file_and_stops_an_owner_that_lost_it(tmp_path, monkeypatch, handler):
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.02)

    def run():
        signal.signal(signal.SIGINT, handler)  # a shell's background jobs ignore it
        try:
            hold_and_lose(tmp_path)
        except KeyboardInterrupt:
            sys.exit(130)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(600)
    assert process.exitcode == 130


def own_in_turn(folder, barrier, problems):
    for turn in range(3):
        barrier.wait(600)
        with owned_folder(folder / str(turn)):
            inside = folder / str(turn) / "inside"
            try:
                inside.touch(exist_ok=False)
            except FileExistsError:
                problems.put(turn)
            time.sleep(0.05)
            inside.unlink(missing_ok=True)


def test_of_several_that_start_at_once_each_owns_the_folder_in_turn_and_never_two(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "PATIENCE_SECONDS", 600.0)
    context = multiprocessing.get_context("fork")
    barrier, problems = context.Barrier(3), context.Queue()
    processes = [context.Process(target=own_in_turn, args=(tmp_path, barrier, problems)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0, 0], "each came in at last"
    assert problems.empty(), "two were inside at once"
