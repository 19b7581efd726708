"""The configuration of an evaluation suite: what is generated and how it is judged."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES
from erase.prompts import find_data


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """A YAML file in ``configs/suites`` sets these fields."""

    name: str
    version: int = 1
    styles: list[str] = field(default_factory=list)  # empty: all of the canvas
    objects: list[str] = field(default_factory=list)  # empty: all of the canvas
    seeds: list[int] = field(default_factory=lambda: [188, 288, 588, 688, 888])  # those of UnlearnCanvas
    held_out: str = "canvas_held_out"  # CSV in prompts/, empty for none
    held_out_seeds: list[int] = field(default_factory=lambda: [188, 288])
    num_inference_steps: int = 20
    guidance_scale: float = 5.0
    batch_size: int = 32
    gold: bool = True  # beside a model that never saw the target, where there is one
    judge: str = "canvas"
    clip: str = "canvas"  # empty: no CLIP score
    tau: float = 0.5  # confidence below which the judge recognises nothing
    resamples: int = 1000  # of the bootstrap
    aspects: list[str] = field(default_factory=list)  # of eval.holistic.ASPECTS, beside the metrics of every suite
    neighbours: int = 3  # concepts nearest to the target that pinpoint-ness looks at
    attacks: str = ""  # CSV of attack prompts, empty for none
    lpips: str = ""  # file of AlexNet weights, empty: not run
    inception: str = ""  # file of Inception weights, empty: not run

    @property
    def axes(self) -> tuple[list[str], list[str]]:
        """The styles and the objects of the grid."""
        return self.styles or list(STYLE_NAMES), self.objects or list(OBJECT_NAMES)


def load_suite(name: str) -> SuiteConfig:
    """Read a suite by name (``canvas``) or by the path of a YAML file.

    Raises:
        FileNotFoundError: there is no such suite.
        ValueError: an unknown field, or a value of the wrong type.
    """
    path = Path(name) if Path(name).is_file() else find_data(f"suites/{name}", within="configs", suffix=".yaml")
    schema = OmegaConf.structured(SuiteConfig)
    OmegaConf.set_readonly(schema, False)  # a frozen dataclass gives a read-only schema
    try:
        content = OmegaConf.load(path)
        if not isinstance(content, DictConfig):
            raise ValueError(f"The suite {path} does not hold settings: write lines such as 'name: mine'.")
        return cast(SuiteConfig, OmegaConf.to_object(OmegaConf.merge(schema, content)))
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key} in the suite {path}: {str(error).splitlines()[0]}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The suite {path} is not a readable YAML file: {str(error).splitlines()[0]}.") from error
