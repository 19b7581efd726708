"""Attacks on an erased model: search, null, success."""
