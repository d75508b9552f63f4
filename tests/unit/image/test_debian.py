import pytest

from image.debian import Mirror, NoMirrorError, acquire_settings, mirror_of

INDEXES = (
    "http://mirror.example/debian/|Debian|Debian\n",
    "http://mirror.example/debian-security/|Debian|Debian-Security\n",
    "http://other.example/debian/|Debian|Debian\n",
)
UBUNTU = ("http://archive.example/ubuntu/|Ubuntu|Ubuntu\n",)
DEBOOTSTRAP = 'X=1\nDEF_MIRROR="http://default.example/debian"\n'


def test_the_hosts_own_mirror_is_used() -> None:
    expected = Mirror("http://mirror.example/debian", "http://mirror.example/debian-security")
    assert mirror_of({}, INDEXES, DEBOOTSTRAP) == expected


def test_a_given_mirror_goes_first_and_has_only_the_security_archive_that_is_given() -> None:
    given = {"MIRROR": "http://mine.example/debian/"}
    assert mirror_of(given, INDEXES, "") == Mirror("http://mine.example/debian", None)
    both = {**given, "MIRROR_SECURITY": "http://mine.example/security/"}
    assert mirror_of(both, INDEXES, "").security == "http://mine.example/security"


def test_a_host_of_another_distribution_takes_debootstraps_default() -> None:
    expected = Mirror("http://default.example/debian", "http://default.example/debian-security")
    assert mirror_of({}, UBUNTU, DEBOOTSTRAP) == expected


def test_a_host_without_any_hint_is_told_what_to_give() -> None:
    with pytest.raises(NoMirrorError, match="MIRROR="):
        mirror_of({}, UBUNTU, "")


def test_the_sources_name_the_release_its_updates_and_its_security_fixes() -> None:
    text = Mirror("http://a.example", "http://s.example").sources()
    assert "URIs: http://a.example\nSuites: trixie trixie-updates\n" in text
    assert "URIs: http://s.example\nSuites: trixie-security\n" in text
    assert "security" not in Mirror("http://a.example", None).sources()


def test_apt_is_told_how_this_host_reaches_a_mirror_and_nothing_else() -> None:
    dump = (
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::https "";',
        'Acquire::Check-Date "false";',
        'APT::Update::Post-Invoke:: "rm -f /var/cache/apt/archives/*.deb";',
    )
    settings = acquire_settings(dump, {}).splitlines()
    assert settings == [dump[0], dump[2], 'Acquire::Languages "none";']


def test_a_proxy_in_the_environment_counts() -> None:
    settings = acquire_settings((), {"https_proxy": "http://proxy.example"})
    assert 'Acquire::https::Proxy "http://proxy.example";\n' in settings
