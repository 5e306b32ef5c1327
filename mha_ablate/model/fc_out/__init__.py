"""What can stand in the place of `fc_out`: one file per variant, each chosen by one YAML in `configs/fc_out`."""

from mha_ablate.model.fc_out.base import FcOut, Place

__all__ = ["FcOut", "Place"]
