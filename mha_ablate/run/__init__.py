"""The run folder: its layout, its record, its weights, where it came from. Nothing downstream holds a live model."""
