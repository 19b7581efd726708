"""Which scorers a suite asks for, whether their settings mean something, and which cannot run; nothing is loaded."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eval.files import find_weights
from eval.score import scorers
from eval.suite.suite import Suite


PIXELS = "pixels"  # it always runs and is not listed in a suite


@cache
def available_scorers() -> tuple[str, ...]:
    """The names of the scorers that a suite can ask for, which are the files in ``eval/score/scorers``.

    >>> "clip" in available_scorers()
    True
    """
    return tuple(sorted(module.name for module in pkgutil.iter_modules(scorers.__path__) if module.name != PIXELS))


def scorer_module(name: str) -> ModuleType:
    """The module of a scorer; see ``eval.score.scorer``.

    Raises:
        ValueError: There is none.
    """
    if name not in (*available_scorers(), PIXELS):
        raise ValueError(f"There is no scorer {name!r}: choose among {', '.join(available_scorers())}.")
    return importlib.import_module(f"{scorers.__name__}.{name}")


def check(suite: Suite) -> dict[str, object]:
    """The settings of every scorer of a suite as its ``Config``, in the suite's order.

    Raises:
        ValueError: An unknown scorer or setting, a value that means nothing, or two scorers with one answer.
    """
    configs, givers = {}, dict.fromkeys(_answers(PIXELS), PIXELS)
    for name, settings in suite.scorers.items():
        if name not in available_scorers():
            names = ", ".join(available_scorers())
            raise ValueError(f"The suite {suite.name!r} has the scorer {name!r}: choose among {names}.")
        configs[name] = _config(suite.name, name, settings or {})
        for answer in _answers(name):
            if answer in givers:
                raise ValueError(
                    f"The suite {suite.name!r} has the scorers {givers[answer]} and {name}, which both give "
                    f"{answer.removeprefix('array:')}: leave one out."
                )
            givers[answer] = name
    return configs


def scorer_lines(suite: Suite) -> list[str]:
    """What a plan says of the scorers, for a terminal."""
    words = []
    for name, config in check(suite).items():
        reason = scorer_module(name).missing(config)
        files = [file for file in _files(name, config) if find_weights(file, local_only=True) is None]
        hope = f", unless {' and '.join(files)} can be fetched" if files else ""
        words.append(f"{name} (not run: {reason}{hope})" if reason else name)
    return [", ".join(words)]


def with_scorers_of(suite: Suite, column: str) -> Suite:
    """The suite with only those scorers that give a column.

    Raises:
        ValueError: No scorer of the suite gives it.
    """
    own = {name: settings for name, settings in suite.scorers.items() if column in _answers(name)}
    if not own:
        raise ValueError(f"The suite {suite.name!r} has no scorer that gives {column}: choose a suite with one.")
    return replace(suite, scorers=own)


def fetch(name: str, config: Any) -> None:  # noqa: ANN401 - each scorer has its own Config
    """Fetch the files of a scorer that are on the hub; a file that cannot be fetched is logged."""
    for file in _files(name, config):
        find_weights(file)


def provide(reasons: Mapping[str, str]) -> dict[str, str]:
    """Column, or ``array:NAME``, of these scorers -> why it was not made; empty if it was.

    Args:
        reasons: Scorer -> why it did not run; empty if it did.
    """
    return {answer: reason for name, reason in reasons.items() for answer in _answers(name)}


def _answers(name: str) -> list[str]:
    module = scorer_module(name)
    return [*module.COLUMNS, *(f"array:{array}" for array in module.ARRAYS)]


def _files(name: str, config: Any) -> list[str]:  # noqa: ANN401 - each scorer has its own Config
    """The files of weights that the settings name; few scorers have files on the hub."""
    return [file for field in getattr(scorer_module(name), "WEIGHTS", ()) if (file := getattr(config, field))]


def _config(suite: str, name: str, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401 - each scorer has its own Config
    schema = scorer_module(name).Config
    names = [field.name for field in fields(schema)]
    for key in settings:
        if key not in names:
            words = f"it has {', '.join(names)}" if names else "it has none"
            raise ValueError(f"The scorer {name} of the suite {suite!r} has no setting {key!r}: {words}.")
    structured = OmegaConf.structured(schema)
    OmegaConf.set_readonly(structured, False)  # a frozen dataclass gives a read-only schema
    try:
        return OmegaConf.to_object(OmegaConf.merge(structured, dict(settings)))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"scorers.{name}.{error.full_key} of the suite {suite!r}: {reason}.") from error
