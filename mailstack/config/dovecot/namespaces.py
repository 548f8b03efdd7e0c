"""`namespace NAME { … }` with its mailboxes, and what `mail_plugins = acl` and its settings say.

Sections of one name are one namespace (10-mail.conf and 15-mailboxes.conf both have `namespace inbox`); each
without a name is one of its own. What goes together is checked in Dovecot's words; one thing more is asked
for: all namespaces share one separator, `.` or `/`, also those that are not listed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mailstack.config.dovecot import values
from mailstack.config.dovecot.location import parse_location
from mailstack.config.dovecot.model import AclSettings, Mailbox, MailLocation, NamespaceSettings
from mailstack.config.dovecot.syntax import Section, Setting
from mailstack.config.errors import ConfigError

_TYPES = ("private", "public", "shared")
_SEPARATORS = (".", "/")


@dataclass(slots=True)
class _Block:
    """All sections of one name."""

    first: Section
    settings: dict[str, Setting] = field(default_factory=dict)
    mailboxes: list[Section] = field(default_factory=list)


def read_namespaces(
    sections: Iterable[Section],
    warn: Callable[[str], None],
    *,
    acl: bool,
    explicit_inbox: bool,
) -> tuple[NamespaceSettings, ...]:
    """All namespaces, in their order; one for the inbox where there are no sections. Raises `ConfigError`."""
    blocks: dict[str | int, _Block] = {}
    for number, section in enumerate(sections):
        block = blocks.setdefault(section.name or number, _Block(section))
        block.settings.update(section.settings)
        for below in section.sections:
            if below.type != "mailbox":
                raise below.origin.error(f"Unknown setting: namespace {{ {below.type}")
            block.mailboxes.append(below)
    read = [(block, _namespace(block, warn, explicit_inbox)) for block in blocks.values()]
    found = [(block, space) for block, space in read if space is not None]
    if not blocks:
        return (NamespaceSettings("", inbox=True),)
    _check(found, acl)
    return tuple(space for _, space in sorted(found, key=_order))


def _order(item: tuple[_Block, NamespaceSettings]) -> tuple[int, int]:
    return item[1].order, len(item[1].prefix)


def _namespace(block: _Block, warn: Callable[[str], None], explicit_inbox: bool) -> NamespaceSettings | None:
    known: dict[str, Setting] = {}
    for key, setting in block.settings.items():
        if key in _KEYS:
            known[key] = setting
        elif key == "alias_for" and setting.content():
            raise setting.origin.error("namespace { alias_for is not supported")
        elif key != "alias_for":
            warn(f"{setting.origin}: namespace {{ {key} has no effect here")

    def yes(key: str, fallback: bool) -> bool:
        return values.boolean(known[key]) if key in known else fallback

    def text(key: str) -> str:
        return known[key].content() if key in known else ""

    if yes("disabled", False):
        return None
    kind = values.choice(known["type"], *_TYPES) if "type" in known else "private"
    location = _location(known.get("location"), kind)
    separator = text("separator") or "."
    if separator not in _SEPARATORS:
        raise known["separator"].origin.error(
            f"namespace {{ separator = {separator} is not supported: . or /"
        )
    prefix = text("prefix").replace("%%", "%") if kind == "shared" else text("prefix")
    listed = text("list").lower() or "yes"
    listed = "children" if listed == "children" else "yes" if yes("list", True) else "no"
    if kind == "shared" and block.mailboxes:
        raise block.mailboxes[0].origin.error("mailbox blocks in a shared namespace are not supported")
    return NamespaceSettings(
        block.first.name,
        type=kind,
        prefix=prefix,
        separator=separator,
        location=location,
        inbox=yes("inbox", False),
        list=listed,
        hidden=yes("hidden", False),
        subscriptions=yes("subscriptions", True),
        ignore_on_failure=yes("ignore_on_failure", False),
        explicit_inbox=explicit_inbox,
        order=values.number(known["order"]) if "order" in known else 0,
        mailboxes=tuple(_mailbox(section, prefix, warn) for section in block.mailboxes),
    )


_KEYS = frozenset(
    (
        *("type", "separator", "prefix", "location", "inbox", "list", "hidden", "subscriptions"),
        *("ignore_on_failure", "disabled", "order"),
    )
)


def _location(setting: Setting | None, kind: str) -> MailLocation | None:
    if setting is None or not setting.content():
        return None
    text = values.template(setting, "undh")
    try:
        if kind == "shared":
            if re.search(r"(?<!%)(?:%%)*%[undh]", text.partition(":INDEX")[0]):
                raise ValueError("the path is another user's: %%u, %%n, %%d, %%h")
            return parse_location(text.replace("%%", "%"))
        location = parse_location(text)
    except ValueError as error:
        raise setting.origin.error(f"namespace {{ location: {error}") from None
    if kind == "public" and "INDEXPVT" in text.upper():
        raise setting.origin.error(
            "namespace { location: INDEXPVT is not supported: all users share one \\Seen"
        )
    return location


def _check(found: list[tuple[_Block, NamespaceSettings]], acl: bool) -> None:
    def wrong(block: _Block, text: str) -> ConfigError:
        return block.first.origin.error(f"namespace configuration error: {text}")

    inboxes = [block for block, space in found if space.inbox]
    if not inboxes:
        raise (
            wrong(found[0][0], "inbox=yes namespace missing")
            if found
            else ConfigError(
                Path("dovecot.conf"), 0, "namespace configuration error: inbox=yes namespace missing"
            )
        )
    if len(inboxes) > 1:
        raise wrong(inboxes[1], "There can be only one namespace with inbox=yes")
    seen: set[str] = set()
    for block, space in found:
        if space.separator != found[0][1].separator:
            raise wrong(block, "All namespaces must use the same separator")
        if space.prefix and not space.prefix.endswith(space.separator):
            raise wrong(block, f"prefix={space.prefix} has to end with separator {space.separator}")
        if space.prefix in seen:
            raise wrong(block, f'Duplicate namespace prefix: "{space.prefix}"')
        seen.add(space.prefix)
        if space.type == "shared":
            if any(other.type == "shared" for _, other in found if other is not space):
                raise wrong(block, "There can be only one namespace with type=shared")
            _check_shared(block, space, acl)
        elif space.type == "public" and space.location is None:
            raise wrong(block, f"type=public with prefix={space.prefix} needs a location")
        elif space.inbox and space.type != "private":
            raise wrong(block, "inbox=yes goes with type=private")
        elif space.location is not None and space.location.mbox and len(found) > 1:
            raise wrong(block, "mbox files go with one namespace only")
    for name, there in (
        ("list=yes", any(space.list == "yes" for _, space in found)),
        ("hidden=no", any(not space.hidden for _, space in found)),
        ("subscriptions=yes", any(space.subscriptions for _, space in found)),
    ):
        if not there:
            raise wrong(found[0][0], f"{name} namespace missing")


def _check_shared(block: _Block, space: NamespaceSettings, acl: bool) -> None:
    def wrong(text: str) -> ConfigError:
        return block.first.origin.error(f"Namespace '{space.prefix}': {text}")

    if not re.search("%[und]", space.prefix):
        raise wrong("Shared namespace prefix doesn't contain %")
    if not re.search("%[un]", space.prefix) or re.search("%[^und]|%[und]%", space.prefix):
        raise wrong("a shared namespace's prefix has %%u, or %%n and %%d, with something between them")
    if space.inbox or space.location is None:
        raise wrong("a shared namespace has a location, and is not the inbox's")
    if not acl:
        raise wrong("a shared namespace needs mail_plugins = acl and plugin { acl = vfile }")


def _mailbox(section: Section, prefix: str, warn: Callable[[str], None]) -> Mailbox:
    special: tuple[str, ...] = ()
    auto, autoexpunge, most, comment = "no", 0.0, 0, ""
    for setting in section.settings.values():
        if setting.key == "special_use":
            special = values.words(setting)
            if not all(word.startswith("\\") for word in special):
                raise setting.origin.error(f"special_use: {setting.text} does not begin with a backslash")
        elif setting.key == "auto":
            auto = values.choice(setting, "no", "create", "subscribe")
        elif setting.key == "autoexpunge":
            autoexpunge = values.seconds(setting)
        elif setting.key == "autoexpunge_max_mails":
            most = values.number(setting)
        elif setting.key == "comment":
            comment = setting.content()
        else:
            warn(f"{setting.origin}: mailbox {{ {setting.key} has no effect here")
    name = section.name if section.name.upper() == "INBOX" else prefix + section.name
    return Mailbox(name, special, auto, autoexpunge, most, comment)


# ---- mail_plugins = acl


def read_acl(
    plugins: Mapping[str, Setting],
    protocols: frozenset[str],
    plugin: Mapping[str, Setting],
    warn: Callable[[str], None],
) -> AclSettings | None:
    """What `mail_plugins` (by protocol) and `plugin { acl… }` ask for; None where there are no ACLs."""
    words = {name: setting.content().replace(",", " ").split() for name, setting in plugins.items()}
    asked = {name for name in words if "acl" in words[name] and (name in protocols or not protocols)}
    told = "imap_acl" in words["imap"]
    if not asked:
        if told:
            warn(f"{plugins['imap'].origin}: mail_plugins: imap_acl has no effect without acl")
        return None
    missing = {name for name in words if name in protocols} - asked
    if missing:
        some = " and ".join(sorted(missing))
        raise plugins[min(asked)].origin.error(f"mail_plugins: acl is missing in protocol {some}")
    backend = plugin.get("acl")
    if backend is None or not backend.content():
        warn(
            f"{plugins[min(asked)].origin}: mail_plugins: acl has no effect without plugin {{ acl = vfile }}"
        )
        return None
    name, *options = backend.content().split(":")
    if name != "vfile":
        raise backend.origin.error(f"plugin {{ acl = {name} is not supported: vfile")
    everywhere = ""
    if options and not options[0].startswith("cache_secs="):
        everywhere = options.pop(0)
    if everywhere and not everywhere.startswith("/"):
        raise backend.origin.error(f"plugin {{ acl: {everywhere} is no path: vfile:/PATH or vfile")
    for option in options:
        if option and not option.startswith("cache_secs="):
            raise backend.origin.error(f"plugin {{ acl: Unknown parameter: {option}")
    shared = plugin["acl_shared_dict"].content() if "acl_shared_dict" in plugin else ""
    if shared and not shared.startswith("file:/"):
        where = plugin["acl_shared_dict"].origin
        warn(f"{where}: plugin {{ acl_shared_dict has no effect: only file:/PATH is supported")
        shared = ""
    from_inbox = plugin.get("acl_defaults_from_inbox")
    groups = plugin["acl_groups"].content() if "acl_groups" in plugin else ""
    return AclSettings(
        told=told,
        from_inbox=from_inbox is not None and values.boolean(from_inbox),
        anyone="acl_anyone" in plugin and plugin["acl_anyone"].content() == "allow",
        shared=shared.removeprefix("file:"),
        groups=tuple(word for word in re.split("[, ]+", groups) if word),
        everywhere=everywhere,
    )
