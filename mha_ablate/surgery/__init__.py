"""A trained model under the knife: parts of its output projection swapped, cut off, folded away, and looked at.

Matrices are W_O `[C, H*V]` and OV_h `[C, C]` as they act on columns; C d_model, H heads, V width of a head's values.
"""
