"""How often the secret may be guessed: by everybody together, for as long as the node runs."""

import hmac
import logging
import time
from collections.abc import Callable
from typing import Final

from initd.errors import PermissionDenied, ResourceExhausted

log = logging.getLogger(__name__)

# So many wrong ones cost no time: people mistype.
FREE: Final = 3
# Seconds that nobody may try after the next wrong one, twice as long after each further one.
PAUSE: Final = 2.0
LONGEST: Final = 300.0


class Attempts:
    """Compares secrets. In a pause none is looked at, the right one neither: a caller who learned
    from the answer which it is could go on guessing."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._secret = secret
        self._clock = clock
        self._wrong = 0
        self._until = clock()

    def check(self, given: bytes) -> None:
        """Raises PermissionDenied where it is wrong, ResourceExhausted in a pause."""
        left = self._until - self._clock()
        if left > 0:
            raise ResourceExhausted(
                f"claim: {self._wrong} wrong secrets were given; try again in {left:.0f} s"
            )
        if hmac.compare_digest(given, self._secret):
            return
        self._wrong += 1
        # The pauses bound this, too.
        log.warning("claim: a wrong secret was given, %d so far", self._wrong)
        if self._wrong >= FREE:
            # The exponent is bounded too: a float is.
            pause = PAUSE * 2.0 ** min(self._wrong - FREE, 20)
            self._until = self._clock() + min(pause, LONGEST)
        raise PermissionDenied("claim: the secret is wrong; compare the fingerprint on the console")
