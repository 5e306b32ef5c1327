"""A study: a plan of arms and seeds, its cells run once each, its runs collected."""
