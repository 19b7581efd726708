"""The configuration of an attack: what is tried, and how often."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eval.attack import attacks
from eval.suite.settings import read_settings


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """A YAML file in ``configs/attacks`` sets these fields.

    Attributes:
        attack: A module of ``eval.attack.attacks``.
        seeds: Of each prompt; every prompt is attacked with each of them.
        tries: Images of the attack, and of each of its nulls, for each prompt and seed.
        params: The fields of the attack's ``Config``.
    """

    attack: str
    seeds: list[int] = field(default_factory=lambda: [188])
    tries: int = 5
    params: dict[str, Any] = field(default_factory=dict)


def load_attack(name: str, *, tries: int | None = None, params: Mapping[str, Any] | None = None) -> AttackConfig:
    """Read an attack by name (``soft``) or by the path of a YAML file, and complete and check its ``params``.

    Args:
        name: The attack.
        tries: In place of the file's.
        params: In place of the file's; None is a value that was not given.

    Raises:
        FileNotFoundError: There is no such attack.
        ValueError: A field is unknown, or a value means nothing.
    """
    config = read_settings(name, AttackConfig, shelf="attacks")
    given = {key: value for key, value in (params or {}).items() if value is not None}
    config = replace(config, tries=config.tries if tries is None else tries, params=config.params | given)
    if config.tries < 1 or not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ValueError(
            f"The attack {name!r} has {config.tries} tries and the seeds {config.seeds}, but at least one try and one "
            "seed are needed, and no seed twice."
        )
    return replace(config, params=asdict(attack_params(config)))


def available_attacks() -> list[str]:
    """The names of the attacks, which are the files in ``eval/attack/attacks``.

    >>> available_attacks()
    ['discrete', 'seeds', 'soft']
    """
    return sorted(module.name for module in pkgutil.iter_modules(attacks.__path__))


def load_module(config: AttackConfig) -> ModuleType:
    """Import an attack; it has ``Config``, ``search``, ``NULL`` and ``WHITE_BOX``.

    Raises:
        ValueError: There is no such attack.
    """
    if config.attack not in available_attacks():
        raise ValueError(f"The attack {config.attack!r} is unknown: choose one of {', '.join(available_attacks())}.")
    return importlib.import_module(f"{attacks.__name__}.{config.attack}")


def attack_params(config: AttackConfig) -> Any:  # noqa: ANN401 - each attack has its own Config
    """``params`` as the ``Config`` of the attack.

    Raises:
        ValueError: A name is unknown, or a value means nothing.
    """
    schema = load_module(config).Config
    names = list(schema.__dataclass_fields__)
    for key in config.params:
        if key not in names:
            has = f"it has {', '.join(names)}" if names else "it has none beside tries and seeds"
            raise ValueError(f"The attack {config.attack!r} has no setting {key!r}; {has}.")
    structured = OmegaConf.structured(schema)
    OmegaConf.set_readonly(structured, False)
    try:
        return OmegaConf.to_object(OmegaConf.merge(structured, config.params))
    except OmegaConfBaseException as error:
        raise ValueError(f"params.{error.full_key} of the attack: {str(error).splitlines()[0]}.") from error
