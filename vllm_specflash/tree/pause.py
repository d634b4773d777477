"""Steps without drafts of the network where drafting has shown not to pay at this load; copies may be verified in them."""

from collections import deque

# Length of the first pause; each one after a try in vain is twice as long, up to the longest.
FIRST, LONGEST = 16, 256
# The smoothed gain with which drafting is tried again: close to 1, so that a few bad steps end it.
RETRY_GAIN = 1.03
# The smoothed gain from which on it pays for certain.
PAYS = 1.1
# So many steps without drafts are timed where nobody knows yet what they take.
LOOK = 4
# A pause that began because copies were worth more than drafts ends after so many steps in a row without one worth verifying.
FRUITLESS = 8


class Pause:
    """Begins when the gain, smoothed over some ten steps, falls below 1.

    Attributes:
        steps: what is left of it.
    """

    def __init__(self):
        self.steps = 0
        self._gain, self._next, self._requests = 2.0, FIRST, 0
        # The gain whatever copies promise; whether the pause is for them.
        self._own, self._for_copies, self._fruitless = 2.0, False, 0

    def take_step(self) -> bool:
        """Whether the step that begins is one of it."""
        resting = self.steps > 0
        self.steps -= resting
        return resting

    def weigh(self, gain: float, requests: int, unsure: bool = False, copies: float = 1.0) -> None:
        """Take in the expected gain of a step's drafts (cost.Sizes) in a batch of so many requests.

        Args:
            unsure: no step without drafts was timed at this load, so that the gain is over what one was taken for.
            copies: what copies alone would gain, which a pause verifies.
        """
        self._gain += 0.1 * (min(gain / copies, 10.0) - self._gain)
        self._own += 0.1 * (min(gain, 10.0) - self._own)
        if self._gain < 1:
            self.steps, self._gain, self._requests = self._next, RETRY_GAIN, requests
            self._next = min(2 * self._next, LONGEST)
            self._for_copies, self._fruitless = self._own >= 1, 0
        elif unsure:
            self.steps, self._requests, self._for_copies = LOOK, requests, False
        elif self._gain > PAYS:
            self._next = FIRST

    def ease(self, requests: int) -> None:
        """End it once the batch is half of what it was: what did not pay then may pay now."""
        if self.steps and 2 * requests <= self._requests:
            self._end()

    def copied(self, pays: bool) -> None:
        """Note whether copies were worth verifying in one of its steps."""
        self._fruitless = 0 if pays else self._fruitless + 1
        if self._for_copies and self._fruitless >= FRUITLESS:
            self._end()

    def _end(self) -> None:
        self.steps, self._next = 0, FIRST


class Typical:
    """What something usually takes: of the last few timings the lower median, which no stall of a few steps moves."""

    def __init__(self, last: int = 9):
        self._timings: deque[float] = deque(maxlen=last)

    def add(self, seconds: float) -> None:
        self._timings.append(seconds)

    def __bool__(self) -> bool:
        """Whether anything was timed yet."""
        return bool(self._timings)

    @property
    def value(self) -> float:
        """0 before the first."""
        return sorted(self._timings)[(len(self._timings) - 1) // 2] if self._timings else 0.0
