"""The folder on disk that an erasure leaves."""
