"""What a claimer gives."""

from initd.values import NamedTuple


class Given(NamedTuple):
    """All PEM but the policy, which is JSON; empty is none."""

    certificate_chain: bytes
    ca_certificate_chain: bytes
    trust_bundle: bytes
    policy: bytes
