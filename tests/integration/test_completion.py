"""Shells complete commands and settings: the printed functions, called in the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mha_ablate.config.catalog import choice_names, groups
from mha_ablate.config.completion import PLUGINS, SWITCHES, candidates
from mha_ablate.config.compose import compose, known_keys
from mha_ablate.config.schema import WORDS
from tests.conftest import Cli

CASES = [
    ("swe", "sweep"),
    ("train fc_out=per", "fc_out=per_head"),
    ("train model.n_h", "model.n_heads="),
    ("train tokenizer=ch", "tokenizer=char"),
    ("train model.block=sk", "model.block=skipless"),
    ("train fc_out=low_rank fc_out.r", "fc_out.rank="),
    ("sweep fc_out=dense,hea", "fc_out=dense,head_scale"),
    ("sweep hydra/launcher=jo", "hydra/launcher=joblib"),
    ("sweep hydra/launcher=joblib hydra.launcher.n_j", "hydra.launcher.n_jobs="),
    ("compare --wor", "--workers"),
    ("compare study=he", "study=heads"),
    ("train --config-dir {own} model=ti", "model=tiny"),
    ("sweep --config-dir {own} +experiment=qu", "+experiment=quick"),
]
BASH = """
PS1=x
eval "$(mha-ablate completion bash)"
COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
COMP_LINE="$LINE" COMP_POINT=${#LINE}
_mha_ablate_completion mha-ablate
word=${LINE##* }
for found in "${COMPREPLY[@]}"; do printf '%s\\n' "${word%"${word##*[=:]}"}$found"; done
"""
ZSH = """
autoload -Uz compinit && compinit -u -d $COMPDUMP
eval "$(mha-ablate completion zsh)"
compadd() { while [[ $1 != -- ]] do shift; done; shift; print -rl -- "$@" }
_files() { print FILES }
words=(${(z)LINE}) CURRENT=${#words}
[[ $LINE == *' ' ]] && words+=('') && CURRENT=${#words}
_mha_ablate_completion
"""
FISH = """
mha-ablate completion fish | source
complete -C "$LINE" | string split -f1 \\t
"""
SHELLS = {
    "bash": ["bash", "--norc", "-c", BASH],
    "zsh": ["zsh", "-f", "-c", ZSH],
    "fish": ["fish", "--no-config", "-c", FISH],
}


def completed(shell: str, line: str, tmp_path: Path) -> list[str]:
    """What a shell offers for a line."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    around = os.environ | {"LINE": line, "PATH": path, "HOME": str(tmp_path), "COMPDUMP": str(tmp_path / "dump")}
    done = subprocess.run(
        SHELLS[shell], env=around, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.stderr == ""
    return [word for word in done.stdout.splitlines() if word]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    for name in ("model/tiny", "experiment/quick"):
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text("d_model: 16\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_offers_what_can_follow(shell: str, own: Path, tmp_path: Path) -> None:
    for line, wanted in CASES:
        found = completed(shell, f"mha-ablate {line}".format(own=own), tmp_path)
        assert wanted in found, (line, found)
        begun = line.rpartition(" ")[2]
        assert all(word.startswith(begun) for word in found), (line, found)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_offers_files_where_nothing_else_is_known(shell: str, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    found = completed(shell, "mha-ablate report out", tmp_path)
    # bash completes files itself where its function returns nothing (complete -o default)
    assert found == {"bash": [], "zsh": ["FILES"], "fish": ["outputs/"]}[shell]


@pytest.mark.parametrize("shell", SHELLS)
def test_nothing_is_said_of_a_line_that_is_wrong(shell: str, tmp_path: Path) -> None:
    for line in ("train fc_out=nothing_like_it", "train --config-dir nowhere model=", "train model.d_model=1"):
        assert not [w for w in completed(shell, f"mha-ablate {line}", tmp_path) if "=" in w]


def test_an_unknown_shell_is_one_line(cli: Cli) -> None:
    said = cli("completion", "tcsh")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "'bash', 'zsh', 'fish'" in said.err


def test_every_group_choice_and_key_can_be_reached() -> None:
    for group in groups():
        assert f"{group}=" in candidates(group)
        assert candidates(f"{group}=") == sorted(f"{group}={name}" for name in choice_names(group))
    reached, level = set(), [""]
    while level:
        found = [word for begun in level for word in candidates(begun)]
        reached |= {word for word in found if word.endswith("=")}
        level = [word for word in found if word.endswith(".")]
    assert {f"{key}=" for key in known_keys() if key != "study.arms"} <= reached


@pytest.mark.parametrize("key", [*WORDS, *SWITCHES])
def test_every_word_that_is_offered_is_taken_by_the_schema(key: str) -> None:
    assert len(candidates(f"{key}=")) > 1
    for word in candidates(f"{key}="):
        if key not in ("data.source", "tokenizer.kind"):  # a choice of their group sets what goes with them
            compose([word])


def test_plugins_are_those_that_hydra_finds() -> None:
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher
    from hydra.plugins.sweeper import Sweeper

    modules = [cls.__module__ for kind in (Launcher, Sweeper) for cls in Plugins.instance().discover(kind)]
    assert {module.split(".")[1] for module in modules if module.startswith("hydra_plugins.")} <= PLUGINS.keys()
    offered = {word.partition("=")[2] for kind in ("launcher", "sweeper") for word in candidates(f"hydra/{kind}=")}
    assert offered >= {"basic", "joblib"}
