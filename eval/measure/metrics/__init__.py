"""Metrics: a module of this folder lists its own in ``METRICS``; its file is all that a new metric needs.

A module may also have a function ``curves`` from evidence to curves. See ``eval.measure.view.Metric``.
"""
