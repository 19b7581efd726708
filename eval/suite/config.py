"""The configuration of an evaluation suite and of an attack: what is generated, how it is judged, what is tried."""

import importlib
import math
import pkgutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erase.prompts import find_data
from eval.attack import attacks
from eval.draw.manifest import hash_weights, sha256
from eval.models.fingerprint import hash_json
from eval.score.scorers.timm_pair import Config as TimmPairConfig
from eval.score.weights import find_weights
from eval.suite.world import World, load_world


JUDGES = ("canvas", "timm_pair")


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """A YAML file in ``configs/suites`` sets these fields."""

    name: str
    version: int = 1
    world: str = "canvas"  # a module of eval.suite.worlds: labels, their spelling in prompts, and the template
    compat: bool = False  # as the published code of the world's benchmark has it, where that differs; see the module
    styles: list[str] = field(default_factory=list)  # empty: all of the world
    objects: list[str] = field(default_factory=list)  # empty: all of the world
    seeds: list[int] = field(default_factory=lambda: [188, 288, 588, 688, 888])  # those of UnlearnCanvas
    held_out: str = "canvas_held_out"  # CSV in prompts/, empty for none
    held_out_seeds: list[int] = field(default_factory=lambda: [188, 288])
    num_inference_steps: int = 20
    guidance_scale: float | None = 5.0  # null: the default of the pipeline's call
    batch_size: int = 32
    gold: bool = True  # beside a model that never saw the target, where there is one
    judge: str = "canvas"  # canvas or timm_pair
    timm_pair: TimmPairConfig = field(default_factory=TimmPairConfig)  # files of that judge; none: not judged
    clip: str = "canvas"  # empty: no CLIP score
    tau: float = 0.5  # confidence below which the judge recognises nothing
    resamples: int = 1000  # of the bootstrap
    aspects: list[str] = field(default_factory=list)  # of eval.suite.aspects.ASPECTS, beside the metrics of every suite
    neighbours: int = 3  # concepts nearest to the target that pinpoint-ness looks at
    attacks: str = ""  # CSV of attack prompts, empty for none
    lpips: str = ""  # file of AlexNet weights, here or on the hub (see eval.score.weights); empty: not run
    inception: str = ""  # the same of Inception weights

    def __post_init__(self) -> None:
        """Refuse what would fail, or mean nothing, once the images are made."""
        world = self.load_world()
        labels = {"styles": world.labels("style"), "objects": world.labels("object")}
        for name, given, known in (
            ("styles", self.styles, labels["styles"]),
            ("objects", self.objects, labels["objects"]),
        ):
            absent = [one for one in given if one not in known]
            if absent:
                raise ValueError(f"The suite {self.name!r} has {absent[0]!r} in {name}; there are {', '.join(known)}.")
        for name in ("styles", "objects", "seeds", "held_out_seeds"):
            given = getattr(self, name)
            if len(set(given)) < len(given) or (name == "seeds" and not given):
                raise ValueError(f"The suite {self.name!r} has {name} {given}: give each once, and at least one seed.")
        for name in ("num_inference_steps", "batch_size", "resamples", "neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"The suite {self.name!r} has {name} {getattr(self, name)}: at least 1 is needed.")
        if not 0 <= self.tau <= 1 or not 0 <= (self.guidance_scale or 0.0) < math.inf:
            raise ValueError(
                f"The suite {self.name!r} has tau {self.tau} and guidance_scale {self.guidance_scale}: a confidence "
                "from 0 to 1 and a number from 0 are needed."
            )
        if self.judge not in JUDGES:
            raise ValueError(f"The suite {self.name!r} has the judge {self.judge!r}: choose {' or '.join(JUDGES)}.")
        if self.judge == "canvas" and self.world != "canvas":
            raise ValueError(
                f"The suite {self.name!r} has the world {self.world} but the judge canvas, which knows no other; "
                "write judge: timm_pair."
            )
        if self.clip == "canvas" and self.world != "canvas":
            raise ValueError(
                f"The suite {self.name!r} has the world {self.world} but the CLIP model canvas, which knows no other; "
                "write clip: '' or name another."
            )
        if self.judge != "timm_pair" and self.timm_pair.has_weights:
            raise ValueError(
                f"The suite {self.name!r} has checkpoints of a timm_pair but the judge {self.judge}: leave them out, "
                "or write judge: timm_pair."
            )

    @property
    def axes(self) -> tuple[list[str], list[str]]:
        """The styles and the objects of the grid."""
        world = self.load_world()
        return self.styles or list(world.styles), self.objects or list(world.objects)

    @property
    def has_judge(self) -> bool:
        """Whether the judge's weights are there; without them images are made and nothing is judged."""
        return self.judge != "timm_pair" or self.timm_pair.has_weights

    def load_world(self) -> World:
        """The world that the suite names."""
        return load_world(self.world, compat=self.compat)


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """A YAML file in ``configs/attacks`` sets these fields."""

    attack: str  # a module of eval.attack.attacks
    seeds: list[int] = field(default_factory=lambda: [188])  # of each prompt; every one is attacked for itself
    tries: int = 5  # images of the attack, and of each of its nulls, for each prompt and seed
    params: dict[str, Any] = field(default_factory=dict)  # the fields of the attack's Config


def load_suite(name: str, *, judge_style: str = "", judge_object: str = "", compat: bool = False) -> SuiteConfig:
    """Read a suite by name (``canvas``) or by the path of a YAML file.

    Args:
        name: the suite.
        judge_style: checkpoint of the style classifier of a ``timm_pair``, in the place of the file's.
        judge_object: the same of the object classifier.
        compat: as the published code of the world's benchmark has it, also where the file does not say so.

    Raises:
        FileNotFoundError: there is no such suite.
        ValueError: an unknown field, a value of the wrong type, one checkpoint of two, or ``compat`` for a world
            without published code.
    """
    config = cast(SuiteConfig, read_settings(name, SuiteConfig, shelf="suites"))
    if compat:
        config = replace(config, compat=True)
    if not judge_style and not judge_object:
        return config
    pair = config.timm_pair
    pair = replace(pair, style=judge_style or pair.style, object=judge_object or pair.object)
    return replace(config, timm_pair=pair)


def describe_suite(config: SuiteConfig) -> dict[str, Any]:
    """What a report keeps of a suite: its settings, the SHA-256 of each prompt file that it names, and one of it all.

    The last covers the weights that judge and score by their content; where they lie makes no difference. Nothing is
    downloaded: weights on the hub count once ``eval.score.scoring.load_scorers`` has fetched them.

    Raises:
        FileNotFoundError: a prompt file is missing.
    """
    named = [name for name in (config.held_out, config.attacks) if name]
    files = {name: sha256(find_data(name, within="prompts", suffix=".csv")) for name in named}
    from erase.canvas.judge import folder as judge_folder

    settings, pair = asdict(config), config.timm_pair
    weights = {
        "judge": str(judge_folder()) if config.judge == "canvas" else "",
        "clip": clip_files(config.clip),
        "lpips": str(find_weights(config.lpips, local_only=True) or ""),
        "inception": str(find_weights(config.inception, local_only=True) or ""),
    }
    checkpoints = {"style": pair.style, "object": pair.object, "labels": pair.labels}
    contents = {name: hash_weights(path) for name, path in (weights | checkpoints).items()}
    asked = settings | {name: bool(settings[name]) for name in weights if name != "judge"}
    asked["timm_pair"] = {name: value for name, value in settings["timm_pair"].items() if name not in checkpoints}
    return settings | {"prompt_files": files, "hash": hash_json([asked, files, contents])}


def has_weights(config: SuiteConfig) -> bool:
    """Whether the weights that a suite names, and those of its judge, are on this machine."""
    named = [name for name in (config.lpips, config.inception) if name]
    return config.has_judge and all(find_weights(name, local_only=True) for name in named)


def clip_files(model: str, pretrained: str = "") -> str:
    """The file or folder of the weights of a CLIP model as ``eval.score.scorers.clip.Config`` names it; empty: none."""
    from erase.canvas.towers import clip_folder

    return str(clip_folder()) if model == "canvas" else pretrained or model.removeprefix("local-dir:")


def load_attack(name: str, *, tries: int | None = None, params: Mapping[str, Any] | None = None) -> AttackConfig:
    """Read an attack by name (``soft``) or by the path of a YAML file, and complete and check its ``params``.

    Args:
        name: the attack.
        tries: in the place of the file's.
        params: in the place of the file's; None is a value that was not given.

    Raises:
        FileNotFoundError: there is no such attack.
        ValueError: an unknown field, or a value that means nothing.
    """
    config = cast(AttackConfig, read_settings(name, AttackConfig, shelf="attacks"))
    given = {key: value for key, value in (params or {}).items() if value is not None}
    config = replace(config, tries=config.tries if tries is None else tries, params=config.params | given)
    if config.tries < 1 or not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ValueError(
            f"The attack {name!r} has {config.tries} tries and the seeds {config.seeds}, but at least one try and one "
            "seed are needed, and no seed twice."
        )
    return replace(config, params=asdict(attack_params(config)))


def available_attacks() -> list[str]:
    """The names of the attacks, which are the files in ``eval/attacks``.

    >>> available_attacks()
    ['discrete', 'seeds', 'soft']
    """
    return sorted(module.name for module in pkgutil.iter_modules(attacks.__path__))


def load_module(config: AttackConfig) -> ModuleType:
    """Import an attack; it has ``Config``, ``search``, ``NULL`` and ``WHITE_BOX``.

    Raises:
        ValueError: there is no such attack.
    """
    if config.attack not in available_attacks():
        raise ValueError(f"The attack {config.attack!r} is unknown: choose one of {', '.join(available_attacks())}.")
    return importlib.import_module(f"eval.attack.attacks.{config.attack}")


def attack_params(config: AttackConfig) -> Any:  # noqa: ANN401 - each attack has its own Config
    """``params`` as the ``Config`` of the attack.

    Raises:
        ValueError: an unknown name, or a value that means nothing.
    """
    schema = load_module(config).Config
    known = [item.name for item in fields(schema)]
    for key in config.params:
        if key not in known:
            told = f"it has {', '.join(known)}" if known else "it has none beside tries and seeds"
            raise ValueError(f"The attack {config.attack!r} has no setting {key!r}; {told}.")
    structured = OmegaConf.structured(schema)
    OmegaConf.set_readonly(structured, False)
    try:
        return OmegaConf.to_object(OmegaConf.merge(structured, config.params))
    except OmegaConfBaseException as error:
        raise ValueError(f"params.{error.full_key} of the attack: {str(error).splitlines()[0]}.") from error


def read_settings(name: str, cls: type, *, shelf: str) -> object:
    """Read a file of ``configs/<shelf>``, or a YAML file by its path, as ``cls``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not readable, or holds an unknown field or a value of the wrong type.
    """
    path = Path(name) if Path(name).is_file() else find_data(f"{shelf}/{name}", within="configs", suffix=".yaml")
    what = shelf.removesuffix("s")
    schema = OmegaConf.structured(cls)
    OmegaConf.set_readonly(schema, False)  # a frozen dataclass gives a read-only schema
    try:
        content = OmegaConf.load(path)
        if not isinstance(content, DictConfig):
            raise ValueError(f"The {what} {path} does not hold settings: write lines such as 'name: mine'.")
        return OmegaConf.to_object(OmegaConf.merge(schema, content))
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key} in the {what} {path}: {str(error).splitlines()[0]}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The {what} {path} is not a readable YAML file: {str(error).splitlines()[0]}.") from error
