"""What is written down: apart from the log, which an API that nobody has asked yet does without."""

from initd.values import NamedTuple


class Decided(NamedTuple):
    """What an event of a decision says."""

    who: str
    method: str
    object: str
    allowed: bool
    rule: str
    reason: str
    peer: str
