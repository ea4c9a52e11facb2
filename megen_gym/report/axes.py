"""Axes: ticks, their text, and the way from values to places in a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megen_gym.structure import FloatArray

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        low: Value at its beginning.
        high: Value at its end, above `low`.
        start: Place of `low` in the picture.
        end: Place of `high`.
        log: Whether it is logarithmic; `low` is then above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, values: FloatArray) -> FloatArray:
        """Places of values, of the same shape."""
        low, high = self._scaled(np.array([self.low, self.high]))
        share: FloatArray = (self._scaled(np.asarray(values, float)) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> tuple[FloatArray, list[str], str]:
        """About `count` round values on the axis, their texts, and a factor for the label ("" or "×10⁶").

        >>> Axis(0, 2_600_000, 0, 1).ticks()[1:]
        (['0.0', '0.5', '1.0', '1.5', '2.0', '2.5'], '×10⁶')
        >>> Axis(1, 1000, 0, 1, log=True).ticks()[1]
        ['1', '10', '100', '1,000']
        """
        if self.log:
            values = self._decades(count)
            return values, [_log_text(value) for value in values], ""
        values = round_values(self.low, self.high, count)
        largest = np.abs(values).max()
        power = int(np.floor(np.log10(largest))) if largest else 0
        if -4 < power < 6:
            power = 0
        step = (values[1] - values[0]) / 10.0**power if len(values) > 1 else 1.0
        digits = max(0, -int(np.floor(np.log10(step) + 1e-9)))
        texts = [minus(f"{value / 10.0**power + 0.0:,.{digits}f}") for value in values]
        return values, texts, f"×10{str(power).translate(SUPERSCRIPTS)}" if power else ""

    def _scaled(self, values: FloatArray) -> FloatArray:
        return np.log10(values) if self.log else values

    def _decades(self, count: int) -> FloatArray:
        first, last = int(np.floor(np.log10(self.low) + 1e-9)), int(np.ceil(np.log10(self.high) - 1e-9))
        factors = (1, 2, 5) if last - first <= 2 else (1,)
        every = max(1, round((last - first) / count))
        values = np.array([f * 10.0**power for power in range(first, last + 1, every) for f in factors])
        return values[(values >= self.low * (1 - 1e-9)) & (values <= self.high * (1 + 1e-9))]


def round_values(low: float, high: float, count: int) -> FloatArray:
    """About `count` multiples of 1, 2 or 5 times a power of ten from `low` to `high`.

    >>> round_values(0.0, 10.0, 5).tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    rough = (high - low) / count
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.82)
    first, last = np.ceil(low / step - 1e-6), np.floor(high / step + 1e-6)
    values: FloatArray = np.arange(first, last + 1) * step + 0.0
    return values


def span(values: FloatArray, log: bool = False, margin: float = 0.05) -> tuple[float, float]:
    """Ends of an axis that holds `values`, with a margin; a range without width gets some.

    >>> span(np.array([2.0]), margin=0.0)
    (1.0, 3.0)
    """
    if not len(values):
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if log:
        return (low, high) if high > low else (low / 2, high * 2)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        wide = abs(low) / 2 or 1.0
        return low - wide, high + wide
    extra = margin * (high - low)
    return low - extra, high + extra


def number(value: float) -> str:
    """A value for reading, four significant digits.

    >>> number(-36.24713), number(123456.0), number(2.5e-7)
    ('−36.25', '123,500', '2.5×10⁻⁷')
    """
    if not np.isfinite(value):
        return "none"
    if value and not 1e-3 <= abs(value) < 1e7:
        mantissa, _, power = f"{value:.3e}".partition("e")
        return minus(f"{float(mantissa):g}×10{str(int(power)).translate(SUPERSCRIPTS)}")
    digits = max(0, 3 - int(np.floor(np.log10(abs(value))))) if value else 0
    rounded = float(f"{value:.4g}")
    text = f"{rounded:,.{digits}f}"
    return minus(text.rstrip("0").rstrip(".") if "." in text else text)


def minus(text: str) -> str:
    """With a minus sign that is as wide as a plus."""
    return text.replace("-", "−")


def _log_text(value: float) -> str:
    if 1e-3 <= value < 1e5:
        return f"{value:,.{max(0, -int(np.floor(np.log10(value) + 1e-9)))}f}"
    power = int(np.floor(np.log10(value) + 1e-9))
    factor = round(value / 10.0**power)
    return (f"{factor}×" if factor > 1 else "") + "10" + str(power).translate(SUPERSCRIPTS)
