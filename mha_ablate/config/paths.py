"""Where the YAML files are."""

from pathlib import Path

from mha_ablate.errors import RequestError

CONFIG = "config"


def configs_dir() -> Path:
    """The folder of the YAML files: beside the package in a wheel, one level up in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / f"{CONFIG}.yaml").is_file():
            return folder
    raise RequestError(f"no configs/{CONFIG}.yaml in {package} or {package.parent}: reinstall mha-ablate")
