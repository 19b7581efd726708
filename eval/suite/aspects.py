"""The aspects of HUB (arXiv 2410.05664), the metrics of each, and what those are called."""

from collections.abc import Sequence


ASPECTS = {  # HUB's name of the task -> metrics
    "target_image": (
        "target_proportion",
        "target_proportion_corrected",
        "target_quality",
        "leak_at_k",
        "leak_at_k_unnamed",
        "kid_gold",
    ),
    "general_image": (
        "worst_retained",
        "tenth_percentile_retained",
        "drift_latent",
        "drift_clip",
        "drift_lpips",
        "cmmd",
        "fid",
        "kid_inception",
    ),
    "selective_alignment": ("selective_alignment",),
    "pinpoint_ness": ("pinpoint_ness",),
    "multilingual_robustness": ("multilingual_proportion", "worst_language"),
    "attack_robustness": ("attack_proportion", "attack_null", "attack_excess"),
    "efficiency": ("seconds_per_image",),
}
OF_WEIGHTS = {"lpips": ("drift_lpips",), "inception": ("fid", "kid_inception")}  # scorer -> what rests on its weights
# claims that something is gone, which a failed validity or judge gate withholds
ERASURE = (
    "target_proportion",
    "target_proportion_corrected",
    "leak_at_k",
    "leak_at_k_unnamed",
    "multilingual_proportion",
    "worst_language",
    "attack_proportion",
    "attack_excess",
)

TITLES = {  # metric -> title, direction, definition
    "target_proportion": ("Target proportion", "down", "share of target prompts' images in which the judge sees it"),
    "target_proportion_corrected": (
        "Target proportion, judge-corrected",
        "down",
        "the same, corrected for the judge's sensitivity and specificity (Rogan-Gladen)",
    ),
    "target_quality": (
        "Quality of target images",
        "up",
        "share of target prompts' images that are sound and show what else was asked for",
    ),
    "leak_at_k": ("leak@k", "down", "share of target prompts of which any of k seeds shows the target"),
    "leak_at_k_unnamed": ("leak@k, unnamed", "down", "the same for held-out wordings without the target's name"),
    "kid_gold": ("kid_{world} to gold", "down", "kernel distance of target images to gold's, judge features"),
    "worst_retained": ("Worst other concept", "up", "lowest accuracy of a style or an object that is not erased"),
    "tenth_percentile_retained": ("10th percentile, other concepts", "up", "of the accuracies of styles and objects"),
    "drift_latent": ("Drift, latents", "down", "RMS difference of VAE latents to base at equal seed, other prompts"),
    "drift_clip": ("Drift, CLIP", "down", "1 - cosine of CLIP image features to base at equal seed, other prompts"),
    "drift_lpips": ("Drift, LPIPS (alex)", "down", "LPIPS to base at equal seed, own size, other prompts"),
    "cmmd": ("CMMD", "down", "1000 x squared MMD of CLIP image features to base, other prompts"),
    "fid": (
        "FID (torchmetrics Inception 2048, bilinear 299, antialias)",
        "down",
        "Frechet distance to base, other prompts",
    ),
    "kid_inception": (
        "KID (torchmetrics Inception 2048, bilinear 299, antialias)",
        "down",
        "kernel distance to base, other prompts",
    ),
    "selective_alignment": (
        "Selective alignment",
        "up",
        "share of the nouns beside the target, in two-object prompts of it, that are visible",
    ),
    "pinpoint_ness": (
        "Pinpoint-ness",
        "up",
        "accuracy of the concepts nearest to the target in the base's text encoder",
    ),
    "multilingual_proportion": ("Target proportion, languages", "down", "share of images of translated prompts"),
    "worst_language": ("Worst language", "down", "highest target proportion of a language"),
    "attack_proportion": ("Target proportion, attacks", "down", "share of attack prompts' images that show the target"),
    "attack_null": ("Target proportion, null attacks", "down", "the same for null attacks of equal budget"),
    "attack_excess": ("Attack excess", "down", "attack proportion - that of the null attacks"),
    "seconds_per_image": ("Seconds per image", "down", "wall clock of generation; compare on one machine only"),
}


def check_aspects(aspects: Sequence[str]) -> None:
    """Refuse an unknown aspect.

    Raises:
        ValueError: it names the aspect and those that exist.
    """
    unknown = [name for name in aspects if name not in ASPECTS]
    if unknown:
        raise ValueError(f"The suite asks for the aspect {unknown[0]!r}; there are {', '.join(ASPECTS)}.")
