"""The commands as a whole: grouped help with examples, typos answered, short options, completion."""

import shutil
import subprocess
import sys

import pytest

from ssdnorm.cli import COMMANDS, GROUPS, main


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_command_once_under_its_group(capsys):
    text = help_of(capsys)
    assert all(f"\n{title}:\n" in text for title in GROUPS)
    lines = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()[0] in COMMANDS]
    assert lines == list(COMMANDS)


def test_a_command_logs_what_this_library_says_and_of_others_only_warnings():
    code = """
from logging import getLogger
from ssdnorm.cli import main
main(["completion", "bash"])
getLogger("ssdnorm.data").info("ours")
getLogger().info("theirs")
getLogger("scipy").warning("a warning")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines() == ["ours", "a warning"]


def test_a_command_whose_output_nobody_reads_any_more_ends_quietly():
    words = [sys.executable, "-m", "ssdnorm", "completion", "bash"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_pipe_that_broke_elsewhere_is_an_error(monkeypatch, capsys):
    def run(arguments, rest):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("ssdnorm.cli.completion.run", run)
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == "error: [Errno 32] Broken pipe\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_examples_whose_options_it_has(name, capsys):
    text = help_of(capsys, name)
    examples = [line for line in text.splitlines() if line.startswith("  ") and f"ssdnorm {name} " in line]
    assert examples, text
    for option in {word for line in examples for word in line.split() if word.startswith("--") and "." not in word}:
        assert option in text[text.index("\noptions:") :] or option == "--norm", option


def test_short_options_set_their_keys(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("ssdnorm.cli.train.run", lambda arguments, rest: seen.append(rest))
    words = ["train", "--config", "quickstart", "--output", str(tmp_path / "x"), "--seed", "3", "--norm", "none"]
    assert main([*words, "--device", "cuda"]) == 0
    assert seen == [["--training.seed", "3", "--runtime.accelerator", "cuda", "--norm", "none"]]


def complete(line: str, script: str) -> list[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    setup = f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}"
    code = f'{script}\n{setup}; COMP_LINE="{line}"; _shtab_ssdnorm; echo "${{COMPREPLY[@]}}"'
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_config_keys(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert complete("ssdnorm ex", script) == ["export"]
    assert complete("ssdnorm train --outp", script) == ["--output"]
    assert complete("ssdnorm train --optimizer.warmup_s", script) == ["--optimizer.warmup_steps"]
    assert complete("ssdnorm compare --base.training.max_", script) == ["--base.training.max_steps"]


def test_zsh_has_a_completion_that_names_the_commands(capsys):
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef ssdnorm")
    assert all(f'"{name}:' in script or f"{name})" in script for name in COMMANDS)
