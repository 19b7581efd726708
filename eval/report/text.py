"""Numbers, names, sizes and times as people read them; the unit of a number is that of its metric."""

from eval.measurements import Difference, Estimate


def number(value: float | None, unit: str = "share") -> str:
    """A value as people read it: shares in per cent, scores in three decimals, distances in three digits.

    >>> number(0.9417), number(0.312, "score"), number(12.345, "distance"), number(None)
    ('94.2 %', '0.312', '12.3', 'n/a')
    """
    if value is None:
        return "n/a"
    if unit == "score":
        return f"{value:.3f}"
    return f"{value:.3g}" if unit == "distance" else f"{100 * value:.1f} %"


def interval(estimate: Estimate, unit: str = "share") -> str:
    """The interval of an estimate, or why it has none; empty where there is no number.

    >>> interval(Estimate(value=0.6, lo=0.5, hi=0.75)), interval(Estimate(value=2.1, method="none: one batch"))
    ('[50.0, 75.0]', '(no interval: one batch)')
    """
    if estimate.lo is not None:
        return f"[{number(estimate.lo, unit)}, {number(estimate.hi, unit)}]".replace(" %", "")
    has_reason = estimate.value is not None and estimate.method
    return f"(no interval: {estimate.method.removeprefix('none: ')})" if has_reason else ""


def basis(estimate: Estimate) -> str:
    """What an estimate was counted from, how its interval was made, and what belongs to it alone.

    >>> basis(Estimate(value=0.4, hits=3, n_images=8, n_prompts=2, method="Wilson, 95 %"))
    '3 of 8; 8 images, 2 prompts; interval: Wilson, 95 %'
    >>> basis(Estimate(value=2.1, n_images=24, method="none: one batch", about={"k": 5}))
    '24 images; interval: none: one batch; k 5'
    """
    counts = {"images": estimate.n_images, "prompts": estimate.n_prompts}
    images = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    method = f"interval: {estimate.method}" if estimate.method else ""
    about = [f"{words(name)} {value}" for name, value in estimate.about.items() if isinstance(value, int | float | str)]
    return "; ".join(filter(None, (hits(estimate), images, method, ", ".join(about))))


def hits(estimate: Estimate) -> str:
    """What a share was counted from; empty for another number."""
    return "" if estimate.hits is None else f"{estimate.hits} of {estimate.n or estimate.n_images}"


def change(gap: Difference | Estimate | None, unit: str = "share") -> str:
    """A difference with its sign and its interval: shares in percentage points.

    >>> change(Difference(value=-0.081, lo=-0.12, hi=-0.0004, method="", n_images=8, paired=True))
    '-8.1 [-12.0, 0.0]'
    """
    return f"{signed(gap.value, unit)} {signed_interval(gap, unit)}".strip() if gap else "n/a"


def signed_interval(gap: Difference | Estimate, unit: str = "share") -> str:
    """The interval of a difference with signs; empty where it has none."""
    return f"[{signed(gap.lo, unit)}, {signed(gap.hi, unit)}]" if gap.lo is not None else ""


def signed(value: float | None, unit: str = "share") -> str:
    """A difference with its sign; no sign where it would be shown as zero.

    >>> signed(0.25), signed(-0.0001), signed(-0.012, "score")
    ('+25.0', '0.0', '-0.012')
    """
    if value is None:
        return "n/a"
    text = f"{value:+.3f}" if unit == "score" else f"{value:+.3g}" if unit == "distance" else f"{100 * value:+.1f}"
    return text if text.strip("+-0.") else text.lstrip("+-")


def words(name: str) -> str:
    """A name with spaces.

    >>> words("Van_Gogh")
    'Van Gogh'
    """
    return name.replace("_", " ")


def count(value: float | None) -> str:
    """A whole number with its thousands apart.

    >>> count(12500), count(None)
    ('12,500', 'n/a')
    """
    return "n/a" if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes in a readable unit.

    >>> size(81_500_000)
    '81.5 MB'
    """
    if value is None:
        return "n/a"
    name, divisor = ("GB", 1e9) if value >= 1e9 else ("MB", 1e6) if value >= 1e6 else ("kB", 1e3)
    return f"{value / divisor:.1f} {name}"


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
