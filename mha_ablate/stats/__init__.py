"""Paired comparisons: numbers in, numbers out."""
