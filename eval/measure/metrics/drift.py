"""How far each image moved from the base's image of the same prompt and seed."""

from collections.abc import Callable

from eval.measure.titles import name_weights
from eval.measure.view import Metric, Sample, View, is_not_base


def _retain(column: str) -> Callable[[View], Sample]:
    def sample(view: View) -> Sample:
        rows = view.retain
        return Sample(values=rows[column].astype(float), base=None, clusters=rows.clusters)

    return sample


def _all(view: View) -> Sample:
    return Sample(values=view["drift"].astype(float), base=None, clusters=view.clusters)


METRICS = [
    Metric(
        key="drift",
        title="Drift",
        direction="down",
        unit="score",
        definition="RMS pixel difference to base at equal seed, prompts without the target",
        sample=_retain("drift"),
        kinds=("grid",),
        exists=is_not_base,
    ),
    Metric(
        key="drift",
        title="Drift",
        direction="none",
        unit="score",
        definition="RMS pixel difference to base at equal prompt and seed, 0 to 1",
        sample=_all,
        kinds=("prompts",),
        exists=is_not_base,
        is_damage=True,
    ),
    *(
        Metric(
            key=key,
            title=title,
            direction="down",
            unit="score",
            definition=definition,
            needs=(key,),
            sample=_retain(key),
            kinds=("grid",),
            aspect="general_image",
            exists=is_not_base,
            adapt=name_weights("lpips") if key == "drift_lpips" else None,
        )
        for key, title, definition in (
            ("drift_latent", "Drift, latents", "RMS difference of VAE latents to base at equal seed, other prompts"),
            ("drift_clip", "Drift, CLIP", "1 - cosine of CLIP image features to base at equal seed, other prompts"),
            ("drift_lpips", "Drift, LPIPS (alex)", "LPIPS to base at equal seed, own size, other prompts"),
        )
    ),
]
