"""The Transformer under study. Axes are spelled as suffixes: B batch, T time, C d_model, H heads, D head_dim, V value width."""
