"""The aspects of HUB (arXiv 2410.05664), by which a suite may ask for groups of metrics."""

ASPECTS = (
    "target_image",
    "general_image",
    "selective_alignment",
    "pinpoint_ness",
    "multilingual_robustness",
    "attack_robustness",
    "efficiency",
)
