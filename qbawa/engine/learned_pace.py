"""How fast a provider lets us go where it grants less than was configured, told by the share of its 429s.

A lone 429 is a fault like a 500: it says nothing about the pace, and only its own call waits. The pace yields when 429s
become more than faults explain. That is a question of statistics with few calls, so it is put to a cumulative sum
(Page 1954, Biometrika 41): each 429 adds much to the evidence, each call sent before it and not refused takes a little
away, and at a bound the share has changed. It needs no window and no least number of calls, and goes by the order in
which calls were sent, so that answers which take longer than 429s do not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

STRAY = 0.03
"""Share of 429s that is put down to faults, until there is reason to think that faults are more, up to MOST_STRAY."""
MOST_STRAY = 0.12
STRAY_WHERE_LIMITED = 0.01
"""The same once a lower limit is known, since then 429s more likely come of it."""
LIMITED = (4.0, 0.1)
"""A limit shows by so many times as many, and at most so much more."""
BOUND = 6.8
"""Evidence at which the pace yields: the logarithm of how much better a limit explains the 429s than faults do."""
SEVERE = 0.25
"""From this share on everybody is held for as long as the provider asks."""
PRIOR = (6.0, 2.0)
"""Calls granted and refused that an estimate begins with: five 429s in a row are no proof of a limit of 0."""
CALM_S = 5.0
"""After a cut the pace stays for so long."""
REGAIN_S = (20.0, 60.0)
"""A cut is regained in so long, at first and at most: twice as long after each attempt that failed."""
DOUBLES_S = 5.0
"""Beyond what was regained the pace grows faster and faster, since the limit has evidently risen."""
FASTEST_PER_S = 0.2
"""How fast the pace may grow, as a share."""
REMEMBER_S = 120.0
"""A cut, or a 429, longer ago says nothing of the next."""
LEAST_SHARE = 0.05
"""Of what was sold: no slower."""
LONGEST_HOLD_S = 30.0
"""Beyond what the provider asks for."""
_RATE_OVER_S = 2.0


class LearnedPace:
    """What is known of one provider's real limit, in requests per second; infinite while it grants what was sold."""

    def __init__(self) -> None:
        self.rate = math.inf
        self.held_until = -math.inf
        """Nothing should be sent before."""
        self._sent = 0
        self._sending = _Rate()
        self._run = _Run(STRAY)
        self._cut: _Cut | None = None
        self._since = math.inf  # the last cut, or the first call
        self._granted = 0  # since then
        self._grows_from = math.inf
        self._growth = 0.0
        self._regain_s = REGAIN_S[0]
        self._strikes = 0

    def sent(self, now: float) -> int:
        """A call leaves; its number."""
        self._sent += 1
        self._granted += 1
        self._since = min(self._since, now)
        self._sending.add(now)
        return self._sent

    def answered(self) -> None:
        """A call was granted and has ended well."""
        self._strikes = 0

    def refused(self, number: int, now: float, seconds: float, sold: float) -> None:
        """The call of this number was answered 429 and should wait `seconds`; `sold` is the configured pace."""
        cut = self._cut
        if cut is not None and number <= cut.last:
            # It speaks of the pace before the cut. While all are held it makes the estimate better.
            if now < self.held_until:
                self.held_until = max(self.held_until, now + seconds)
                cut.late += 1
                cut.run.came_late(number)
                self._set(cut)
            return
        self._granted -= 1
        self._run.refused(number, now)
        if self._run.evidence < BOUND:
            return
        if self._run.share < SEVERE:
            self._yield_a_little(now, sold)
        elif self._run.share >= 0.5 or self._run.evidence >= 2 * BOUND:
            self._yield(now, seconds, sold)

    def recover(self, now: float, sold: float) -> float:
        """The pace now: what was learned grows back slowly, so that a passing shortage is forgotten."""
        if self._cut is not None and now > self._grows_from:
            if not self._run.undecided(self._sent):
                beyond_s = now - self._cut.at - CALM_S - self._regain_s
                growth = self._growth * 2 ** min(20.0, max(0.0, beyond_s / DOUBLES_S))
                self.rate *= 1 + min(FASTEST_PER_S, growth) * min(1.0, now - self._grows_from)
            self._grows_from = now
        if self.rate >= sold:
            self.rate = self._grows_from = math.inf
            if self._cut is not None and now - self._cut.at > REMEMBER_S:
                self._cut, self._run, self._regain_s = None, _Run(STRAY), REGAIN_S[0]
        return min(sold, self.rate)

    def _yield(self, now: float, seconds: float, sold: float) -> None:
        """Hold everybody for as long as asked, and go on as fast as was granted, or half as fast as now if that is more."""
        # A provider that grants nothing between two holds is asked ever more rarely, whatever it says.
        self._strikes += 1
        longer_s = min(LONGEST_HOLD_S, 0.5 * 2 ** min(self._strikes, 10)) if self._strikes > 1 else 0.0
        self.held_until = max(self.held_until, now + max(seconds, longer_s))
        self._begin(now, sold, PRIOR)

    def _yield_a_little(self, now: float, sold: float) -> None:
        """Go on without the calls that were refused; nobody is held."""
        pace, cut = min(sold, self.rate), self._cut
        if cut and cut.mild and cut.goes_on(pace) and pace < 0.85 * cut.top and self._run.share > 0.6 * cut.run.share:
            # Going slower has not helped: the 429s do not come of the pace.
            self.rate, self._grows_from = cut.top, now
            self._run = _Run(min(MOST_STRAY, max(self._run.stray, 1.25 * self._run.share)))
            return
        self._begin(now, sold, (0.0, 0.0))

    def _begin(self, now: float, sold: float, prior: tuple[float, float]) -> None:
        """Lower the pace to what the 429s say, and begin to count anew."""
        pace = min(sold, self.rate)
        before = self._cut
        since_s = now - before.at if before else math.inf
        top, good = pace, 0.0
        if before and before.goes_on(pace):
            top = max(pace, before.top)
        if since_s > REMEMBER_S:
            self._regain_s = REGAIN_S[0]
        elif before and since_s > CALM_S + before.held_s:
            self._regain_s = min(2 * self._regain_s, REGAIN_S[1])
            good = 0.0 if before.goes_on(pace) else before.rate
        least = LEAST_SHARE * sold if sold != math.inf else 1 / 60
        self._cut = _Cut(
            at=now,
            last=self._sent,
            pace=pace,
            top=top,
            sending=min(pace, self._sending.per_second(now)),
            least=max(least, pace / 2 if pace != math.inf else 0.0),
            run=self._run,
            prior=prior,
            run_s=now - self._run.since,
            first=before is None,
            good=good,
            since=self._since,
            granted=self._granted,
            held_s=max(0.0, self.held_until - now),
        )
        self._run = _Run(max(STRAY_WHERE_LIMITED, 0.0 if prior[0] else self._run.stray - STRAY))
        self._sending = _Rate()
        self._since, self._granted = now, 0
        self._set(self._cut)

    def _set(self, cut: _Cut) -> None:
        self.rate = cut.rate = cut.estimate(self.held_until)
        regained = math.log(cut.top / self.rate) if cut.top != math.inf else math.log(2)
        self._growth = max(0.1, regained) / self._regain_s
        self._grows_from = max(self.held_until, cut.at) + CALM_S


class _Run:
    """The calls since 429s may have become more: the evidence that they have, and their share."""

    def __init__(self, stray: float) -> None:
        self.stray = stray
        self.evidence = 0.0
        self.since = 0.0
        self.count = 0
        self._first = self._last = 0
        self._at = -math.inf
        limited = min(stray * LIMITED[0], stray + LIMITED[1])
        self._per_429 = math.log(limited / stray)
        self._per_call = math.log((1 - stray) / (1 - limited))

    @property
    def sent(self) -> int:
        return max(self._last - self._first + 1, self.count)

    @property
    def share(self) -> float:
        return self.count / self.sent

    def refused(self, number: int, now: float) -> None:
        self.evidence -= self._per_call * max(0, number - self._last - 1)
        if self.evidence <= 0 or now - self._at > REMEMBER_S:
            self.evidence, self.count, self.since, self._first, self._last = 0.0, 0, now, number, number
        self.evidence += self._per_429
        self.count += 1
        self._last, self._at = max(self._last, number), now

    def came_late(self, number: int) -> None:
        """One more 429, after the evidence was judged."""
        self.count += 1
        self._last = max(self._last, number)

    def undecided(self, sent: int) -> bool:
        """Whether the calls since the last 429 have not yet taken the evidence away."""
        return self.evidence > self._per_call * (sent - self._last)


@dataclass
class _Cut:
    """What was known when the pace yielded."""

    at: float
    last: int
    """Number of the last call before."""
    pace: float
    """Before, and before the first of several cuts that were one descent:"""
    top: float
    sending: float
    """Calls per second that really left."""
    least: float
    run: _Run
    prior: tuple[float, float]
    run_s: float
    first: bool
    good: float
    """The pace that was kept between the cut before and this one; 0 where there was no such time."""
    since: float
    """The cut before, or the first call; and what was granted from then on:"""
    granted: int
    held_s: float
    rate: float = math.inf
    """The pace that it led to."""
    late: int = 0
    """429s that came in afterwards."""

    @property
    def mild(self) -> bool:
        return not self.prior[0]

    def goes_on(self, pace: float) -> bool:
        """Whether a cut from `pace` would be of one descent with this one: hardly anything was regained between."""
        return pace < 1.1 * self.rate

    def estimate(self, held_until: float) -> float:
        """Requests per second that the provider grants."""
        granted = max(0, self.granted - self.late)
        if self.pace == math.inf:
            # All left at once: what was granted must do until the hold is over.
            return max(granted / max(held_until - self.since, 0.5), self.least)
        sent = self.run.sent
        kept = sent - self.run.count
        rate = self.sending * (kept + self.prior[0]) / (sent + sum(self.prior))
        if not self.first:
            # From one shortage to the next a bucket fills as much as it empties, so what was granted is the limit,
            # unless that has changed meanwhile.
            whole = max(self.good, granted / max(self.at - self.since, 0.1))
            expected = whole * self.run_s
            likely = abs(kept - expected) < 2 * math.sqrt(expected) + 1
            rate = whole if likely else min(max(whole, 0.9 * rate), 1.3 * rate)
        return min(self.pace * 0.98, max(self.least, rate))


class _Rate:
    """Calls per second of late, weighing those longer ago less."""

    def __init__(self) -> None:
        self._level = 0.0
        self._from = self._at = -math.inf

    def add(self, now: float) -> None:
        if self._from == -math.inf:
            self._from = self._at = now
        self._level = self._level * math.exp((self._at - now) / _RATE_OVER_S) + 1
        self._at = now

    def per_second(self, now: float) -> float:
        age = max(0.05, now - self._from)
        level = self._level * math.exp((self._at - now) / _RATE_OVER_S)
        return level / _RATE_OVER_S / (1 - math.exp(-age / _RATE_OVER_S))
