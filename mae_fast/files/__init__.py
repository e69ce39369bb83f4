"""Weights on disk: read safely, in the layout of any codebase, and written whole or not at all."""
