"""Help is light, teaches, and nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.synthetic import write_study

HEAVY = ("torch", "hydra", "omegaconf", "datasets", "tensorboard", "numpy", "matplotlib", "rich", "scipy")


@pytest.mark.parametrize(
    "argv", [["--help"], ["train", "--help"], ["compare", "--help"], ["doctor", "--help"], ["--version"], ["list"]]
)
def test_nothing_heavy_is_imported_for_help(argv: list[str]) -> None:
    code = (
        "import sys\nfrom mha_ablate.cli import errors\nfrom mha_ablate.cli.main import app\n"
        f"code = errors.run(app, {argv!r})\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[] 0"


def test_a_report_imports_no_torch(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", arms=["dense", "none"], seeds=2, evaluations=2)
    code = (
        "import sys\nfrom mha_ablate.report.write import write_report\nfrom pathlib import Path\n"
        f"write_report(Path({str(study)!r}))\n"
        "print([m for m in ('torch', 'hydra', 'datasets', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_model_without_values_is_on_the_meta_device_whole_and_imports_no_compiler() -> None:
    code = (
        "import sys\nfrom mha_ablate.build import model_of\nfrom mha_ablate.config.compose import compose\n"
        "for positions in ('learned', 'rope', 'sinusoidal'):\n"
        "    model = model_of(compose([f'model.positions={positions}']).config, 50, 'meta')\n"
        "    assert all(t.is_meta for t in (*model.parameters(), *model.buffers())), positions\n"
        "print([m for m in ('torch._dynamo', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_run_takes_its_first_steps_before_a_compiler_is_imported(small: list[str]) -> None:
    code = (
        "import sys\nfrom mha_ablate.study.cell import run_cell\nfrom mha_ablate.study.single import single_cell\n"
        "seen = []\n"
        f"run_cell(single_cell({small!r}), lambda line: seen.append('torch._dynamo' in sys.modules))\n"
        "print(len(seen) > 2, any(seen))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("True False", "")


@pytest.mark.parametrize("command", ["train", "compare", "report", "board", "list", "doctor", "generate"])
def test_every_command_has_help_with_examples(command: str, cli: Cli) -> None:
    said = cli(command, "--help")
    assert said.code == 0
    assert f"mha-ablate {command}" in said.out
    assert "Examples" in said.out
    assert "--json" in said.out


def test_help_of_train_lists_every_variant(cli: Cli) -> None:
    from mha_ablate.config.catalog import choice_names

    words = cli("train", "--help").out.replace("\n", " ")
    for name in choice_names("fc_out"):
        assert name in words


def test_without_a_command_the_help_is_shown(cli: Cli) -> None:
    said = cli()
    assert (said.code, said.err) == (0, "")
    assert said.out == cli("--help").out


def test_list_as_json_names_every_choice(cli: Cli) -> None:
    found = cli("list", "--json").json
    assert set(found["fc_out"]) >= {"dense", "none", "per_head"}
    assert all(meaning for choices in found.values() for meaning in choices.values())
