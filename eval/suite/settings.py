"""Reading of YAML files in ``configs`` as frozen dataclasses."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erase.prompts import find_data


Settings = TypeVar("Settings")


def read_settings(
    name: str, cls: type[Settings], *, shelf: str, refuse: Callable[[Mapping[str, Any]], str] | None = None
) -> Settings:
    """Read a file of ``configs/<shelf>``, or a YAML file by its path, as ``cls``.

    Args:
        name: Of the file.
        cls: A dataclass whose fields are the keys of the file.
        shelf: A folder of ``configs``: ``suites`` or ``attacks``.
        refuse: Says why content is refused, as the end of a sentence about the file; empty if it is not.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not readable, or has an unknown key or a value of the wrong type.
    """
    path = Path(name) if Path(name).is_file() else find_data(f"{shelf}/{name}", within="configs", suffix=".yaml")
    what = shelf.removesuffix("s")
    schema = OmegaConf.structured(cls)
    OmegaConf.set_readonly(schema, False)  # a frozen dataclass gives a read-only schema
    try:
        content = OmegaConf.load(path)
        if not isinstance(content, DictConfig):
            raise ValueError(f"The {what} {path} does not hold settings: write lines such as 'name: mine'.")
        plain = cast(dict[str, Any], OmegaConf.to_container(content, resolve=False))
        for key, text in _texts(plain):
            if "${" in text:  # a resolver such as oc.env would read what is not part of the file
                raise ValueError(f"{key} in the {what} {path} is {text!r}: write the value itself instead of ${{...}}.")
        if reason := refuse(plain) if refuse else "":
            raise ValueError(f"The {what} {path} {reason}")
        return cast(Settings, OmegaConf.to_object(OmegaConf.merge(schema, content)))
    except OmegaConfBaseException as error:
        key = error.full_key or "A value"
        raise ValueError(f"{key} in the {what} {path}: {str(error).splitlines()[0].rstrip('.')}.") from error
    except TypeError as error:  # of omegaconf, which does not say where
        raise ValueError(
            f"The {what} {path} has a list where keys with values are expected, or these where a list is: compare it "
            f"with a {what} in configs/{shelf}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The {what} {path} is not a readable YAML file: {str(error).splitlines()[0]}.") from error


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the text of every string within plain data."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{place}]")
