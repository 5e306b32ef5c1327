"""What scripts/bench is made of: request, processes, what runs leave, the measurement, its result, tables.

Everything is seen from outside: the ordinary `mha-ablate` runs as a process of its own into a temporary folder, and the
numbers are read from the files that it leaves.
"""
