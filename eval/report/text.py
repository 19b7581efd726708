"""Numbers, names, sizes and times as people read them."""

from typing import Any


# metrics that are not shares, by the beginning of their names
UNITS = {
    "clip_": "score",
    "drift": "score",
    "diversity": "distance",
    "fd_": "distance",
    "fid": "distance",
    "kid_": "distance",
    "cmmd": "distance",
    "seconds": "distance",
}


def unit(key: str) -> str:
    """Whether a metric is a share, a score or a distance.

    >>> unit("ua"), unit("clip_retain"), unit("fd_canvas")
    ('share', 'score', 'distance')
    """
    return next((found for prefix, found in UNITS.items() if key.startswith(prefix)), "share")


def number(value: float | None, key: str = "") -> str:
    """A value as people read it: shares in per cent, scores in three decimals, distances in three digits.

    >>> number(0.9417, "ira"), number(0.312, "clip_retain"), number(None)
    ('94.2 %', '0.312', 'n/a')
    """
    if value is None:
        return "n/a"
    kind = unit(key)
    if kind == "score":
        return f"{value:.3f}"
    return f"{value:.3g}" if kind == "distance" else f"{100 * value:.1f} %"


def interval(estimate: dict[str, Any] | None, key: str = "") -> str:
    """The interval of an estimate, or nothing.

    >>> interval({"lo": 0.5, "hi": 0.75}, "ua")
    '[50.0, 75.0]'
    """
    if not estimate or estimate.get("lo") is None:
        return ""
    return f"[{number(estimate['lo'], key)}, {number(estimate['hi'], key)}]".replace(" %", "")


def no_interval(estimate: dict[str, Any]) -> str:
    """Why a value stands without an interval, in brackets; nothing where it has one.

    >>> no_interval({"value": 2.1, "lo": None, "ci_method": "none: one batch"}), no_interval({"value": 1, "lo": 0})
    ('(no interval: one batch)', '')
    """
    if estimate["value"] is None or estimate.get("lo") is not None:
        return ""
    return f"(no interval: {estimate['ci_method'].removeprefix('none: ')})"


def basis(estimate: dict[str, Any]) -> str:
    """What an estimate was counted from, and how its interval was made.

    >>> basis({"hits": 3, "n": 8, "n_images": 8, "n_prompts": 2, "ci_method": "Wilson, 95 %"})
    '3 of 8; 8 images, 2 prompts; interval: Wilson, 95 %'
    >>> basis({"n_images": 24, "lo": None, "ci_method": "none: one batch"})
    '24 images; interval: none: one batch'
    """
    parts = [f"{estimate['hits']} of {estimate.get('n', estimate['n_images'])}"] if "hits" in estimate else []
    counts = [f"{estimate[f'n_{what}']} {what}" for what in ("images", "prompts") if f"n_{what}" in estimate]
    return "; ".join([*parts, ", ".join(counts), f"interval: {estimate['ci_method']}"])


def rate(found: dict[str, Any]) -> str:
    """A share of prompts with its counts and its interval.

    >>> rate({"value": 0.5, "lo": 0.2, "hi": 0.8, "hits": 5, "n": 10})
    '5/10 = 50.0 % [20.0, 80.0]'
    """
    return f"{found['hits']}/{found['n']} = {number(found['value'])} {interval(found)}"


def change(gap: dict[str, Any] | None, key: str = "") -> str:
    """A difference with its sign and its interval: shares in percentage points.

    >>> change({"value": -0.081, "lo": -0.12, "hi": -0.0004}, "ira")
    '-8.1 [-12.0, 0.0]'
    """
    if not gap:
        return "n/a"
    value, lo, hi = (signed(gap[end], key) for end in ("value", "lo", "hi"))
    return f"{value} [{lo}, {hi}]"


def signed(value: float, key: str = "") -> str:
    """A difference with its sign; no sign where it would be shown as zero.

    >>> signed(0.25), signed(-0.0001), signed(-0.012, "drift")
    ('+25.0', '0.0', '-0.012')
    """
    kind = unit(key)
    text = f"{value:+.3f}" if kind == "score" else f"{value:+.3g}" if kind == "distance" else f"{100 * value:+.1f}"
    if not text.strip("+-0."):
        return text.lstrip("+-")
    return text


def words(name: str) -> str:
    """A name with spaces.

    >>> words("Van_Gogh")
    'Van Gogh'
    """
    return name.replace("_", " ")


def size(count: float | None) -> str:
    """Bytes in a readable unit.

    >>> size(81_500_000)
    '81.5 MB'
    """
    if count is None:
        return "n/a"
    name, divisor = ("GB", 1e9) if count >= 1e9 else ("MB", 1e6) if count >= 1e6 else ("kB", 1e3)
    return f"{count / divisor:.1f} {name}"


def duration(seconds: float | None) -> str:
    """A time in a readable unit.

    >>> duration(0.0421), duration(75)
    ('42 ms', '1 min 15 s')
    """
    if seconds is None:
        return "n/a"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
