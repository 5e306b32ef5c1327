"""Configuration: typed schema, composition by Hydra, and the catalogue of what can be chosen. No torch here."""
