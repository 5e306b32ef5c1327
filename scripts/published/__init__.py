"""What docs/findings.md shows, from the run folders that it was found in."""
