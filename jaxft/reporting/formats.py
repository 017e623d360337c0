"""Figures as text: scores, bytes, seconds, shares; a dash for a figure that does not exist.

human_bytes(77_280_000)     # "73.7 MiB"
human_seconds(123.4)        # "2 min 03 s"
percent(1, 10**9)           # "<0.01%"
"""

NONE = "\N{EN DASH}"  # for a figure that does not exist
MINUS = "\N{MINUS SIGN}"

# name -> (bytes, decimals)
UNITS = {"MiB": (2**20, 1), "GiB": (2**30, 3), "GB": (10**9, 2)}


def figure(value: float | None) -> str:
    """`0.7123`, or a dash for None; a very large loss keeps three digits."""
    if value is None:
        return NONE
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def rate(value: float | None) -> str:
    """`1,234`, or `0.83` for small numbers."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def percent(part: int, total: int) -> str:
    """`1.29%`; a part above zero never shows as 0.00%."""
    if total == 0:
        return NONE
    value = 100 * part / total
    return "<0.01%" if 0 < value < 0.005 else f"{value:.2f}%"


def share(value: float | None) -> str:
    """`62.3%`, or a dash for None."""
    # Plus 0 turns -0.0 into 0.0.
    return NONE if value is None else f"{round(100 * value, 1) + 0:.1f}%"


def times(value: float | None) -> str:
    """`3.1x`, or a dash for None."""
    return NONE if value is None else f"{value:.1f}x"


def points(difference: float) -> str:
    """`+1.2`, in points of percent, with a true minus sign; a figure that rounds to 0 has none."""
    text = f"{100 * difference:+.1f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def signed(difference: float) -> str:
    """`+0.123`, in a score's own unit, with a true minus sign."""
    text = f"{difference:+.3f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def amount(n: float | None, unit: str) -> str:
    """`1,234.5` of one of `UNITS`; a size above zero never shows as 0.0."""
    if n is None:
        return NONE
    size, decimals = UNITS[unit]
    least = 10**-decimals
    return f"<{least}" if 0 < n / size < least / 2 else f"{n / size:,.{decimals}f}"


def human_bytes(n: float | None) -> str:
    """`73.7 MiB`, or a dash for None."""
    if n is None:
        return NONE
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    value, unit = float(n), 0
    # Compare the rounded value: 1023.96 KiB would show as 1024.0 KiB.
    while round(value, 1) >= 1024 and unit < len(units) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {units[unit]}" if unit else f"{n:.0f} B"


def human_seconds(seconds: float | None) -> str:
    """`320 ms`, `4.2 s`, `2 min 03 s` or `1 h 07 min`; a dash for None."""
    if seconds is None:
        return NONE
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def counted(n: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def shorten(text: str, width: int) -> str:
    """Cuts the middle out of a text longer than `width`; labels may differ at either end."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


def capitalised(text: str) -> str:
    """Only the first letter, because str.capitalize would lower the rest."""
    return text[:1].upper() + text[1:]


METRIC_NAMES = {"macro_f1": "macro-F1", "micro_f1": "micro-F1", "weighted_f1": "weighted F1"}


def metric_name(key: str) -> str:
    """The name of a score in a sentence: `macro-F1` for `macro_f1`, `MCC` for `mcc`."""
    return METRIC_NAMES.get(key, key.upper() if key == "mcc" else key.replace("_", " "))
