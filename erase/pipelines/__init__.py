"""Pipelines that are copied into the artefacts that need them; their files import nothing of this package."""
