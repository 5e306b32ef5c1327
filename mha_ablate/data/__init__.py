"""Text in, batches of tokens out. Text is identified by its SHA-256; batches are a pure function of (data seed, step)."""
