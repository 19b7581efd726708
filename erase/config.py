"""The settings of one run: YAML files, ``key=value`` overrides and flags become one checked ``RunConfig``."""

import ast
import difflib
import importlib
import json
import pkgutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erase import methods
from erase.prompts import MAX_SEED, PromptRow, find_data, read_prompts


if TYPE_CHECKING:
    from erase.concept import Concept


FORMS = ("pipeline", "delta")
DTYPES = ("float32", "float16", "bfloat16")
MAX_SEEDS = 100_000  # a longer list is a slip of the pen such as 0-4294967295
LISTS = ("concept.target", "concept.synonyms", "concept.templates", "retain")  # where one plain string means one entry


@dataclass(frozen=True, kw_only=True)
class ConceptConfig:
    """What is erased; the fields of ``erase.Concept``."""

    target: list[str] = field(default_factory=list)
    anchor: str = ""
    kind: str = "style"
    synonyms: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=lambda: ["{}"])


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One complete experiment.

    Attributes:
        method: A module of ``erase.methods``.
        base_model: ``canvas``, a diffusers folder, or a hub id, optionally ``owner/name@revision``.
        concept: What is erased.
        retain: Prompts that must keep their meaning; an entry that ends in ``.csv`` or ``.txt`` is a file of such
            prompts.
        params: The fields of the method's ``Config``.
        seed: All randomness derives from it.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: ``float32``, ``float16`` or ``bfloat16``: the precision of the run and of what is saved.
        gradient_checkpointing: Whether blocks of the model are computed again in a backward, instead of all that they
            computed being kept: less memory, about one more forward per backward, and the same result.
        save: ``pipeline`` (a standalone diffusers folder) or ``delta`` (only the changed tensors).
        out: The folder of the artefact.
    """

    method: str = "esd"
    base_model: str = "canvas"
    concept: ConceptConfig = field(default_factory=ConceptConfig)
    retain: list[str] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    save: str = "pipeline"
    out: str | None = None

    def to_concept(self) -> "Concept":
        """Return the checked concept."""
        from erase.concept import Concept

        given = self.concept
        return Concept(
            target=tuple(given.target),
            anchor=given.anchor,
            kind=given.kind,
            synonyms=tuple(given.synonyms),
            templates=tuple(given.templates),
        )

    def retain_prompts(self) -> list[str]:
        """Return the retain set with every prompt file replaced by those of its prompts that do not name the target.

        One file of prompts serves every target that way; a prompt given by itself is never dropped. A combination is
        named by its style and its object, apart and in either order: by the file's columns of these names, or else by
        all of its words.
        """
        prompts: list[str] = []
        for entry in self.retain:
            if entry.endswith(".json"):  # an UnGuide concept holds prompts of the target as well
                raise ValueError(f"The retain set {entry} is JSON, but a CSV or text file is read: save it as one.")
            if entry.endswith((".csv", ".txt")):
                rows = read_prompts(find_data(entry, within="prompts", suffix=".csv"))
                prompts += [row.prompt for row in rows if not self._names_target(row)]
            else:
                prompts.append(entry)
        return prompts

    def _names_target(self, row: PromptRow) -> bool:
        names = [name.casefold() for name in (*self.concept.target, *self.concept.synonyms)]
        text = row.prompt.casefold()
        if self.concept.kind != "combination":
            return any(name in text for name in names)
        parts = [
            row.columns[axis].casefold().replace("_", " ") for axis in ("style", "object") if row.columns.get(axis)
        ]
        if len(parts) == 2:
            return any(all(part in name for part in parts) for name in names)
        return any(all(word in text for word in name.split()) for name in names)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as the YAML file would state it."""
        return asdict(self)


def read_config(
    name: str | None = None, *, overrides: Sequence[str] = (), settings: Mapping[str, Any] | None = None
) -> RunConfig:
    """Read one experiment; later sources win: the YAML file, then ``settings``, then ``overrides``.

    Args:
        name: A YAML file, or a shipped one such as ``esd/canvas-style``; without it the defaults are the start.
        overrides: ``key=value`` with dotted keys, such as ``params.steps=5``.
        settings: Nested values, such as those of command line flags.

    Returns:
        The checked settings, ``params`` completed with the method's defaults.
    """
    sources: list[tuple[str, dict[str, Any]]] = []
    if name is not None:
        path = find_data(name, within="configs", suffix=".yaml")
        sources.append((str(path), _read_yaml(path)))
    sources.append(("the settings", dict(settings or {})))
    sources.append(("the overrides", _read_overrides(overrides)))
    for source, content in sources:
        _check_keys(content, source)
    merged = OmegaConf.merge(*(_lists(content) for _, content in sources))
    return resolve(_fill(RunConfig, merged, ""))


def resolve(config: RunConfig) -> RunConfig:
    """Check every value that can be checked before a model is loaded, and complete ``params``."""
    _check_choice("save", config.save, FORMS)
    _check_choice("dtype", config.dtype, DTYPES)
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"The seed is {config.seed}, but a whole number from 0 to 2**63 - 1 is expected.")
    config.to_concept()
    params = method_config(config)
    if config.save == "delta" and load_method(config.method).trains(params) in ("adapter", "nothing"):
        raise ValueError(
            f"The result of {config.method!r} keeps the base's weights as they are, so it has no form 'delta': choose "
            "save=pipeline."
        )
    # through JSON, so that a tuple equals the list that comes back from a file
    return replace(config, params=json.loads(json.dumps(asdict(params))))


def method_config(config: RunConfig) -> Any:  # noqa: ANN401 - each method has its own Config
    """Return ``params`` as the ``Config`` of the method; unknown names and wrong types are refused."""
    method = load_method(config.method)
    known = [item.name for item in fields(method.Config)]
    for key in config.params:
        if key not in known:
            hint = (
                f"did you mean 'params.{nearest(key, known)}'? It has {', '.join(known)}." if known else "it has none."
            )
            raise ValueError(f"Unknown setting 'params.{key}' of the method {config.method!r}: {hint}")
    return _fill(method.Config, config.params, "params.")


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of ``0-4``, ``0,3,7`` or a mixture, in the order given.

    Args:
        text: Whole numbers from 0 to 2**63 - 1 and ranges, which include both ends, with commas between them.

    Raises:
        ValueError: anything else, a range that runs backwards, a seed that occurs twice, or more than 100,000 seeds.

    Example:
        >>> parse_seeds("0-2,7")
        [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (number.strip() for number in part.partition("-"))
        numbers = (first, last) if dash else (first, first)
        # no more digits than the largest has: Python refuses to read numbers of thousands in words of its own
        digits = [number.isascii() and number.isdecimal() and len(number) <= len(str(MAX_SEED)) for number in numbers]
        if not all(digits) or max(map(int, numbers)) > MAX_SEED:
            raise ValueError(
                f"The seeds {text!r} cannot be read: write whole numbers and ranges, such as 0-4 or 0,3,7."
            )
        start, end = int(numbers[0]), int(numbers[1])
        if start > end:
            raise ValueError(f"The range {part.strip()!r} of the seeds {text!r} runs backwards: write {end}-{start}.")
        if len(seeds) + end - start >= MAX_SEEDS:
            raise ValueError(f"The seeds {text!r} are more than {MAX_SEEDS:,}: write a shorter range.")
        seeds += range(start, end + 1)
    twice = [seed for seed, count in Counter(seeds).items() if count > 1]
    if twice:
        raise ValueError(f"The seed {twice[0]} occurs twice in {text!r}: name every seed once.")
    return seeds


def available_methods() -> list[str]:
    """Return the names of the erasing methods, which are the files in ``erase/methods``.

    Example:
        >>> "esd" in available_methods()
        True
    """
    return sorted(module.name for module in pkgutil.iter_modules(methods.__path__))


def load_method(name: str) -> ModuleType:
    """Import a method; it has ``Config``, ``erase``, ``plan``, ``trains``, ``FAMILIES`` and ``PAPER``."""
    _check_choice("method", name, available_methods())
    return importlib.import_module(f"erase.methods.{name}")


def describe_method(name: str) -> tuple[str, str]:
    """Return the first sentence of a method's docstring and its paper, read without importing it.

    Example:
        >>> describe_method("esd")[1]
        'Erasing Concepts from Diffusion Models, arXiv 2303.07345'
    """
    _check_choice("method", name, available_methods())
    tree = ast.parse((Path(methods.__path__[0]) / f"{name}.py").read_text(encoding="utf-8"))
    papers = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(goal) for goal in node.targets] == ["PAPER"]
    ]
    summary = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    return summary, papers[0] if papers else "no paper"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the known name that is most like ``name``; the last part of a dotted name counts as well.

    Example:
        >>> nearest("steps", ["seed", "params.steps"])
        'params.steps'
    """

    def likeness(candidate: str) -> float:
        pairs = ((name, candidate), (name.rsplit(".", 1)[-1], candidate.rsplit(".", 1)[-1]))
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max(known, key=likeness)


def to_yaml(config: RunConfig) -> str:
    """Return the settings as a YAML file that ``read_config`` reads back."""
    return yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException, OSError) as error:
        raise ValueError(f"{path} is not a readable YAML file ({_first_line(error)}): correct it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold settings: write lines such as 'method: esd'.")
    return {str(key): value for key, value in content.items()}


def _read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        if not override.partition("=")[0].strip():
            raise ValueError(f"The override {override!r} has no key: write key=value, such as params.steps=5.")
    try:
        content = OmegaConf.to_container(OmegaConf.from_dotlist([item.strip() for item in overrides]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"The overrides {list(overrides)!r} cannot be read ({_first_line(error)}).") from error
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _check_keys(content: Mapping[str, Any], source: str) -> None:
    top = [item.name for item in fields(RunConfig)]
    concept = [f"concept.{item.name}" for item in fields(ConceptConfig)]
    inner = content.get("concept", {})
    if not isinstance(inner, Mapping):
        raise ValueError(f"'concept' in {source} is {inner!r}, but it holds {', '.join(concept)}.")
    if not isinstance(content.get("params", {}), Mapping):
        raise ValueError(f"'params' in {source} is {content['params']!r}, but it holds the method's settings.")
    for key in content:
        if "." in key:
            outer = key.partition(".")[0]
            raise ValueError(f"The key {key!r} in {source} has a dot: write {outer!r} and indent the rest below it.")
    for key in [*content, *(f"concept.{key}" for key in inner)]:
        if key not in top and key not in concept:
            known = [*top, *concept, *_params_of(content.get("method"))]
            raise ValueError(f"Unknown key {key!r} in {source}: did you mean {nearest(key, known)!r}?")


def _params_of(method: object) -> list[str]:
    """Names to suggest: the settings of one method, or of all while it is not known which one is meant."""
    names = [str(method)] if method in available_methods() else available_methods()
    return [f"params.{item.name}" for name in names for item in fields(load_method(name).Config)]


def _lists(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with one plain value turned into a list where a list is expected, and null into nothing."""
    copy = {**content, "concept": dict(content.get("concept", {}))}
    for dotted in LISTS:
        holder = copy["concept"] if "." in dotted else copy
        leaf = dotted.rsplit(".", 1)[-1]
        if leaf in holder:
            value = holder[leaf]
            entries = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
            holder[leaf] = [_text(dotted, entry) for entry in entries]
    if copy["concept"].get("anchor", "") is None:
        copy["concept"]["anchor"] = ""
    return copy


def _text(key: str, entry: object) -> str:
    # YAML reads no, on and yes as truth values, and "False" would be erased instead of what was meant
    if not isinstance(entry, str | int | float) or isinstance(entry, bool):
        raise ValueError(f"{key} holds {entry!r}, but text is expected: put it in quotes.")
    return str(entry)


def _fill(cls: type, content: object, prefix: str) -> Any:  # noqa: ANN401 - an instance of cls
    schema = OmegaConf.structured(cls)
    OmegaConf.set_readonly(schema, False)  # a frozen dataclass gives a read-only schema
    try:
        return OmegaConf.to_object(OmegaConf.merge(schema, content))
    except OmegaConfBaseException as error:
        raise ValueError(f"{prefix}{error.full_key}: {_first_line(error)}.") from error


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(
            f"The {name} {value!r} is unknown: choose one of {', '.join(choices)}; did you mean "
            f"{nearest(value, choices)!r}?"
        )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
