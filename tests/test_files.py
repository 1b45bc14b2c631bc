import pytest

from ssdnorm.files import replaced_file


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
