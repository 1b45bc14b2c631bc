"""Files appear whole or not at all, and errors name them."""

import errno
import os

import pytest

from ssdnorm.files import append_rows, remove_unfinished, replaced_file, shortened, whole_rows, write_bytes


def test_a_file_appears_when_it_is_whole_with_its_folder(tmp_path):
    path = tmp_path / "new" / "plot.svg"
    with replaced_file(path) as unfinished:
        assert unfinished.suffix == ".svg"
        unfinished.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    assert list(path.parent.iterdir()) == [path]


def test_after_an_error_the_old_file_is_as_it_was_and_no_half_is_left(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old")

    def interrupted() -> None:
        with replaced_file(path) as unfinished:
            unfinished.write_text("ha")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    for error in (OSError(errno.ENOSPC, "full"), OSError(errno.ENOSPC, "full", str(tmp_path / ".a.01234567.part.txt"))):
        with pytest.raises(OSError, match=r"No space left on device: '.*/a\.txt'$"), replaced_file(tmp_path / "a.txt"):
            raise error
    with pytest.raises(OSError, match="other"), replaced_file(tmp_path / "a.txt"):
        raise FileNotFoundError(errno.ENOENT, "gone", "other")


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("ö" * 125 + ".png")
    assert len(os.fsencode(path.name)) == 254
    write_bytes(path, b"1")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert shortened("ö" * 125, 7) == "ööö"


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    for name in (".last.01234567.part.ckpt", ".x.0123abcd.part", ".x.part.txt", "a.01234567.part.ckpt", ".owner.1"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path, older_than=3600)
    assert len(list(tmp_path.iterdir())) == 5, "they may be another's, at work"
    remove_unfinished(tmp_path, tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".owner.1", ".x.part.txt", "a.01234567.part.ckpt"]


@pytest.mark.parametrize("cut", ["3,0.2", "3,0.25", "3", "3,0.25,1\n"])
def test_a_row_that_a_full_disk_truncated_is_skipped(tmp_path, cut):
    path = tmp_path / "metrics.csv"
    append_rows(path, [("step", "loss"), (1, 0.5), (2, "")])
    path.write_bytes(path.read_bytes() + cut.encode())
    assert whole_rows(path) == [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": ""}]
