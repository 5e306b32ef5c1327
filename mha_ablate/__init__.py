"""mha_ablate: what is `fc_out`, the output projection of multi-head attention, worth, and what does it cost?"""

__version__ = "0.1.0"
