"""Values of dovecot.conf that are more than a word or a number. All raise `ConfigError`."""

from __future__ import annotations

from ipaddress import ip_network

from mailstack.config.dovecot import values
from mailstack.config.dovecot.model import NetworkSettings
from mailstack.config.dovecot.syntax import Section, Setting
from mailstack.config.dovecot.variables import unknown


def variables(setting: Setting) -> str:
    """A text whose `%` variables all exist."""
    text = setting.content()
    wrong = unknown(text)
    if wrong:
        raise setting.origin.error(f"{setting.key}: unknown variable {wrong}")
    return text


def translation(setting: Setting) -> dict[str, str]:
    """Pairs of characters: from, to."""
    text = setting.content()
    if len(text) % 2:
        raise setting.origin.error("auth_username_translation: characters come in pairs")
    return dict(zip(text[::2], text[1::2], strict=True))


def pairs(setting: Setting) -> tuple[tuple[str, str], ...]:
    """Names and values in turn; a name without a value has none."""
    words = setting.content().split()
    return tuple(zip(words[::2], [*words[1::2], ""], strict=False))


def networks(setting: Setting) -> tuple[str, ...]:
    """Addresses and networks."""
    for word in values.words(setting):
        try:
            ip_network(word, strict=False)
        except ValueError:
            raise setting.origin.error(f"{setting.key}: invalid network {word}") from None
    return values.words(setting)


def workarounds(setting: Setting) -> tuple[str, ...]:
    words = values.words(setting)
    for word in words:
        if word not in ("outlook-no-nuls", "oe-ns-eoh"):
            raise setting.origin.error(f"{setting.key}: Unknown client workaround: {word}")
    return words


def read_networks(root: Section) -> tuple[NetworkSettings, ...]:
    """`remote` and `local` sections; what else than these settings is in them has no effect."""
    found = []
    for section in root.sections:
        if section.type not in ("remote", "local"):
            continue
        try:
            network = ip_network(section.name, strict=False)
        except ValueError:
            raise section.origin.error(
                f"{section.type} {section.name}: write an address or a network"
            ) from None
        plaintext = section.get("disable_plaintext_auth")
        connections = section.get("mail_max_userip_connections")
        found.append(
            NetworkSettings(
                section.type,
                network,
                values.boolean(plaintext) if plaintext is not None else None,
                values.number(connections) if connections is not None else None,
            )
        )
    return tuple(sorted(found, key=lambda each: (each.network.prefixlen, each.type == "remote")))
