"""What the default configuration comes to on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mha_ablate.doctor.fact import Answer, in_words
from mha_ablate.doctor.software import REINSTALL
from mha_ablate.errors import MhaAblateError
from mha_ablate.training.hardware import BF16_PROBES, WORTH_IT, bf16_features, bf16_speedup

if TYPE_CHECKING:
    from mha_ablate.training.hardware import Hardware


def defaults() -> dict[str, Answer]:
    """Device, precision and threads of `compare` and `train`; a problem where `compare` could not even start."""
    try:
        from mha_ablate import build
        from mha_ablate.config.compose import compose
        from mha_ablate.study.execute import default_workers

        config = compose([]).config
        hardware = build.hardware_of(config)
    except MhaAblateError as error:  # one line that says what to do, such as a default that this machine cannot serve
        return {"compare": Answer("cannot start", "problem", str(error), str(error))}
    except Exception as error:
        return {"compare": Answer("cannot start", "problem", in_words(error), REINSTALL)}
    workers = default_workers()
    limit = "a GPU takes one cell at a time" if hardware.device == "cuda" else "one per core"
    return {
        "device": Answer(hardware.device),
        "precision": Answer(hardware.precision, why=why_precision(hardware, config.trainer.precision)),
        "compare": Answer(f"{workers} worker{'s' * (workers != 1)} of 1 thread", why=limit),
        "train": Answer(f"{hardware.threads} thread{'s' * (hardware.threads != 1)}"),
    }


def why_precision(hardware: Hardware, asked: str) -> str:
    """The reason behind the working precision."""
    if asked != "auto":
        return f"trainer.precision={asked} in the configuration"
    if hardware.device == "cuda":
        features = bf16_features("cuda")
        return f"the GPU multiplies it ({', '.join(features)})" if features else "the GPU does not multiply bf16"
    named = ", ".join(bf16_features("cpu")) or f"neither {' nor '.join(BF16_PROBES)}"
    found = f"the processor multiplies bf16 {bf16_speedup():.1f} times as fast as fp32 ({named})"
    remembered = hardware.precision == "bf16" and bf16_speedup() < WORTH_IT
    return f"tried: {found}" if not remembered else f"it was faster when first tried; now {found}"
