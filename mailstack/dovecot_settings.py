"""The settings table: every setting of Dovecot 2.3's dovecot.conf, its default, and what becomes of it here.

`SETTINGS` is data, and imports no other room: `config.dovecot` has its defaults and warnings from it,
docs/dovecot-settings.md is made from it, and a test holds it against `doveconf -d`. A setting

- works: some code of ours acts on it; `values` is None;
- is as it is: the service behaves in one way, which is what `values` say (empty: nobody can tell the
  difference, so any value is as good); another value is warned about at start, with the reason;
- is refused: what asks for it is warned about at start, with the reason. Dovecot's default asks for \
nothing.

Names of settings within sections are written `namespace.prefix`, `service.chroot`, `mailbox.auto` and so \
on.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import NamedTuple


class DovecotSetting(NamedTuple):
    """One setting; `doc` is what it does here, or why it does nothing."""

    name: str
    default: str
    doc: str
    works: bool
    values: tuple[str, ...] | None = None


# A setting with its default, then what it does.
_WORKS = """\
auth_anonymous_username = anonymous
    the user that ANONYMOUS is
auth_default_realm =
    the domain of names that have none
auth_failure_delay = 2 secs
    before a failed login is answered; the growing delay of an address that guesses begins with it, 0 \
turns both off
auth_master_user_separator =
    `user*master` logs in as user with the password of master, whom a passdb with `master = yes` knows
auth_mechanisms = plain
    what AUTHENTICATE and AUTH take: plain login cram-md5 scram-sha-1 scram-sha-256 scram-sha-1-plus \
scram-sha-256-plus external xoauth2 oauthbearer anonymous
auth_ssl_require_client_cert = no
    nobody logs in without a certificate that ssl_ca verifies
auth_ssl_username_from_cert = no
    the name in the client's certificate is the user's
auth_username_chars = abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01234567890.-_@
    a name with another character is nobody's
auth_username_format = %Lu
    the one form of a name
auth_username_translation =
    pairs of characters: what stands in a name, and what it is read as
auth_verbose = no
    failed logins are logged with their reason
base_dir = /run/dovecot
    unix_listener paths begin there
disable_plaintext_auth = yes
    no passwords in plain text without TLS; from this machine neither
haproxy_timeout = 3 secs
    for the PROXY header, on listeners with `haproxy = yes`
haproxy_trusted_networks =
    who may connect there, with a header of version 1 or 2; its TLS extensions are passed over
hostname =
    in greetings and Received: of LMTP; empty: the machine's
imap_capability =
    what is announced instead of what there is; with `+` before it: besides
imap_id_log =
    fields of what clients say of themselves that are logged, `*`: all
imap_id_send = name *
    what ID says: names and values; `*`: our own name, version, os or os-version
imap_idle_notify_interval = 2 mins
    between two `* OK Still here`
imap_logout_format = in=%i out=%o deleted=%{deleted} expunged=%{expunged} trashed=%{trashed} \
hdr_count=%{fetch_hdr_count} hdr_bytes=%{fetch_hdr_bytes} body_count=%{fetch_body_count} \
body_bytes=%{fetch_body_bytes}
    %i %o %{deleted} %{expunged} %{trashed} %{appended} %{fetch_hdr_count} %{fetch_hdr_bytes} \
%{fetch_body_count} %{fetch_body_bytes} %{session}; other variables are an error
imap_max_line_length = 64 k
    of one command without its literals
imap_urlauth_host =
    of URLs that GENURLAUTH signs, `*` for any; empty: no URLAUTH
imap_urlauth_port = 143
    of the same
lda_mailbox_autocreate = no
    for lmtp_save_to_detail_mailbox
lda_mailbox_autosubscribe = no
    for mailboxes made by lda_mailbox_autocreate
listen = *, ::
    addresses; names are not looked up
lmtp_add_received_header = yes
    LMTP's own Received:
lmtp_hdr_delivery_address = final
    what Delivered-To: says
lmtp_rcpt_check_quota = no
    RCPT is refused where a quota is used up
lmtp_save_to_detail_mailbox = no
    `user+Folder@`: into that mailbox; INBOX where there is none
lmtp_user_concurrency_limit = 0
    in all sessions of the process
lmtp_verbose_replies = no
    why a message could not be stored
login_greeting = Dovecot ready.
    of IMAP, POP3 and LMTP
login_log_format = %$: %s
    of logins and of connections without one
login_log_format_elements = user=<%u> method=%m rip=%r lip=%l mpid=%e %c session=<%{session}>
    %u %n %d %s %m %r %l %a %b %c %k %e %p %{session} and their long names, without modifiers; others are an \
error
login_trusted_networks =
    connections from there count as secure, and their failures are not counted
mail_home =
    home of users without one
mail_location =
    maildir:PATH with LAYOUT=fs, INBOX=PATH, INDEX=; mbox:PATH with INBOX=FILE, read-only; others are an \
error
mail_log_prefix = %s(%u)<%{pid}><%{session}>:
    %s %u %n %d %r %l %p %i %{session} and their long names, without modifiers; others are an error
mail_max_userip_connections = 10
    for each of imap and pop3
mail_server_admin =
    the URI that METADATA tells as the server's /shared/admin
mail_server_comment =
    METADATA tells it as the server's /shared/comment
mail_shared_explicit_inbox = no
    in shared namespaces: `shared/user/INBOX` rather than `shared/user`
pop3_client_workarounds =
    outlook-no-nuls, oe-ns-eoh
pop3_delete_type = default
    expunge, or flag: QUIT gives messages pop3_deleted_flag
pop3_deleted_flag =
    a keyword; messages that have it are not shown
pop3_enable_last = no
    LAST, as in RFC 1460
pop3_logout_format = top=%t/%p, retr=%r/%b, del=%d/%m, size=%s
    %t %p %r %b %d %m %s %i %o; other variables are an error
pop3_no_flag_updates = no
    RETR leaves messages unseen
pop3_uidl_format = %08Xu%08Xv
    %u, %v, %f
protocols =
    imap, pop3, lmtp
quota_full_tempfail = no
    LMTP answers 452 4.2.2 instead of 552 5.2.2 where a quota is used up
recipient_delimiter = +
    of LMTP addresses
ssl = yes
    no, yes, required
ssl_ca =
    `<FILE`: certificates, and revocation lists, that clients' certificates are verified with
ssl_cert =
    `<FILE`
ssl_cert_username_field = commonName
    of a client's certificate: a name or a number (`x500UniqueIdentifier`, `2.5.4.45`)
ssl_cipher_list = \
ALL:!kRSA:!SRP:!kDHd:!DSS:!aNULL:!eNULL:!EXPORT:!DES:!3DES:!MD5:!PSK:!RC4:!ADH:!LOW@STRENGTH
    TLS 1.2; not set: OpenSSL's own
ssl_dh =
    `<FILE`
ssl_key =
    `<FILE`
ssl_min_protocol = TLSv1.2
    nothing older than TLSv1.2 in any case
ssl_require_crl = yes
    ssl_ca has to hold a revocation list of every authority
ssl_verify_client_cert = no
    clients may show a certificate; one that is not good ends the handshake
"""

# A setting with Dovecot's default, then the values that it may have here.
_FIXED = """\
auth_cache_negative_ttl = 1 hours
    any value: as auth_cache_size
auth_cache_size = 0
    any value: good passwords are remembered, salted and hashed, until their file changes
auth_cache_ttl = 1 hours
    any value: as auth_cache_size
auth_cache_verify_password_with_worker = no
    any value: as auth_cache_size
auth_socket_path = auth-userdb
    any value: sockets are those that the file names
auth_worker_max_count = 30
    any value: one process, whose threads check passwords
config_cache_size = 1 M
    any value: one process reads the configuration once
default_client_limit = 1000
    any value: one process serves all; process_limit in service imap or pop3 limits sessions
default_idle_kill = 1 mins
    any value: one process
default_internal_group = dovecot
    any value: one process with one owner
default_internal_user = dovecot
    any value: one process with one owner
default_login_user = dovenull
    any value: one process with one owner
default_process_limit = 100
    any value: as default_client_limit
default_vsz_limit = 256 M
    any value: use the limits of the system or the container
dotlock_use_excl = yes
    any value: always with O_EXCL
first_valid_gid = 1
    any value: the process has one owner
first_valid_uid = 500
    any value: the process has one owner
imap_fetch_failure = disconnect-immediately
    only `disconnect-immediately`: a message that cannot be read ends the connection
import_environment = TZ CORE_OUTOFMEM CORE_ERROR LISTEN_PID LISTEN_FDS NOTIFY_SOCKET
    any value: nothing is started
info_log_path =
    only `/dev/stderr`: standard error
instance_name = dovecot
    any value: the log's tag is dovecot
last_valid_gid = 0
    any value: the process has one owner
last_valid_uid = 0
    any value: the process has one owner
libexec_dir = /usr/lib/dovecot
    any value: one process
lock_method = fcntl
    any value: Maildir needs no locks but those of dovecot-uidlist
log_path = syslog
    only `/dev/stderr`: standard error; whoever starts the service puts it into a file or syslog
login_plugin_dir = /usr/lib/dovecot/modules/login
    any value: no plugins of Dovecot's are loaded
login_proxy_max_disconnect_delay = 0
    any value: nothing is proxied
login_proxy_max_reconnects = 3
    any value: nothing is proxied
login_proxy_notify_path = proxy-notify
    any value: nothing is proxied
login_proxy_timeout = 30 secs
    any value: nothing is proxied
mail_always_cache_fields =
    any value: the index is our own, and only a cache
mail_cache_fields = flags
    any value: the index is our own, and only a cache
mail_fsync = optimized
    only `always`: what has been answered with OK is on disk
mail_gid =
    any value: the process has one owner, who owns the mail
mail_never_cache_fields = imap.envelope
    any value: the index is our own, and only a cache
mail_nfs_index = no
    only `no`: the index lies in memory and in a cache beside the messages
mail_plugin_dir = /usr/lib/dovecot/modules
    any value: no plugins of Dovecot's are loaded
mail_prefetch_count = 0
    any value: only a matter of speed
mail_privileged_group =
    any value: the process has one owner
mail_save_crlf = no
    only `no`: messages lie on disk with LF
mail_sort_max_read_count = 0
    only `0`: SORT reads all that it needs
mail_temp_dir = /tmp
    any value: temporary files lie in the Maildir's tmp/
mail_uid =
    any value: the process has one owner, who owns the mail
mail_vsize_bg_after_count = 0
    any value: only a matter of speed
mailbox_idle_check_interval = 30 secs
    any value: inotify tells at once
mailbox_list_index = yes
    any value: mailboxes are listed from the directory
mailbox_list_index_include_inbox = no
    any value: as mailbox_list_index
mailbox_list_index_very_dirty_syncs = no
    any value: as mailbox_list_index
maildir_copy_with_hardlinks = yes
    only `yes`: COPY makes hard links
maildir_empty_new = no
    only `no`: messages stay in new/ until their flags change
maildir_stat_dirs = no
    only `no`: a folder is what has cur/
maildir_very_dirty_syncs = no
    only `no`: changes by other programs are seen at once
mmap_disable = no
    any value: nothing is mapped that others change
postmaster_address = postmaster@%{if;%d;ne;;%d;%{hostname}}
    any value: nothing is sent, so nobody is named as its sender; the MTA bounces
pop3_fast_size_lookups = no
    any value: sizes stand in the names of files, and others are found once
pop3_lock_session = no
    only `yes`: POP3 sessions have the mailbox for themselves (RFC 1939 §4)
pop3_uidl_duplicates = allow
    only `allow`: ids of pop3_uidl_format are unique
shutdown_clients = yes
    only `yes`: a client that is connected is told at shutdown
ssl_client_ca_dir =
    any value: for connections to other servers, which are none
ssl_client_ca_file =
    any value: for connections to other servers, which are none
ssl_client_require_valid_cert = yes
    any value: for connections to other servers, which are none
ssl_crypto_device =
    only ``: no engines of OpenSSL
ssl_options =
    only `no_compression`: there is no compression; tickets are in use
ssl_prefer_server_ciphers = no
    only `yes`: the server's order counts
state_dir = /var/lib/dovecot
    any value: nothing is kept there
stats_writer_socket_path = stats-writer
    any value: no stats process
syslog_facility = mail
    any value: as log_path
valid_chroot_dirs =
    any value: nothing is chrooted
verbose_proctitle = no
    any value: one process
version_ignore = no
    any value: one process
"""

# A reason, then settings with Dovecot's default.
_REFUSED = """\
no policy server is asked
    auth_policy_check_after_auth = yes
    auth_policy_check_before_auth = yes
    auth_policy_hash_mech = sha256
    auth_policy_hash_nonce =
    auth_policy_hash_truncate = 12
    auth_policy_log_only = no
    auth_policy_reject_on_fail = no
    auth_policy_report_after_auth = yes
    auth_policy_request_attributes = login=%{requested_username} pwhash=%{hashed_password} remote=%{rip} \
device_id=%{client_id} protocol=%s session_id=%{session}
    auth_policy_server_api_header =
    auth_policy_server_timeout_msecs = 2000
    auth_policy_server_url =
    auth_proxy_self =
no GSSAPI, no NTLM
    auth_gssapi_hostname =
    auth_krb5_keytab =
    auth_use_winbind = no
    auth_winbind_helper_path = /usr/bin/ntlm_auth
passwords and what is derived from them are never logged
    auth_debug = no
    auth_debug_passwords = no
    auth_stats = no
    auth_verbose_passwords = no
no mechanism here asks for a realm
    auth_realms =
no director: one process has all users
    director_flush_socket =
    director_mail_servers =
    director_max_parallel_kicks = 100
    director_max_parallel_moves = 100
    director_output_buffer_size = 10 M
    director_ping_idle_timeout = 30 secs
    director_ping_max_timeout = 1 mins
    director_servers =
    director_user_expire = 15 mins
    director_user_kick_delay = 2 secs
    director_username_hash = %Lu
no doveadm server, dsync or replication; copy the Maildir
    doveadm_allowed_commands =
    doveadm_api_key =
    doveadm_http_rawlog_dir =
    doveadm_password =
    doveadm_port = 0
    doveadm_socket_path = doveadm-server
    doveadm_ssl = no
    doveadm_username = doveadm
    doveadm_worker_count = 0
    dsync_alt_char = _
    dsync_commit_msgs_interval = 100
    dsync_features =
    dsync_hashed_headers = Date Message-ID
    dsync_remote_cmd = ssh -l%{login} %{host} doveadm dsync-server -u%u -U
    replication_dsync_parameters = -d -N -l 30 -U
    replication_full_sync_interval = 1 days
    replication_max_conns = 10
    replicator_host = replicator
    replicator_port = 0
mail lies here, not on another server
    imapc_cmd_timeout = 5 mins
    imapc_connection_retry_count = 1
    imapc_connection_retry_interval = 1 secs
    imapc_features =
    imapc_host =
    imapc_list_prefix =
    imapc_master_user =
    imapc_max_idle_time = 29 mins
    imapc_max_line_length = 0
    imapc_password =
    imapc_port = 143
    imapc_rawlog_dir =
    imapc_sasl_mechanisms =
    imapc_ssl = no
    imapc_ssl_verify = yes
    imapc_user =
    pop3c_features =
    pop3c_host =
    pop3c_master_user =
    pop3c_password =
    pop3c_port = 110
    pop3c_quick_received_date = no
    pop3c_rawlog_dir =
    pop3c_ssl = no
    pop3c_ssl_verify = yes
    pop3c_user = %u
no stats process
    log_core_filter =
    log_debug =
    old_stats_carbon_interval = 30 secs
    old_stats_carbon_name =
    old_stats_carbon_server =
    old_stats_command_min_time = 1 mins
    old_stats_domain_min_time = 12 hours
    old_stats_ip_min_time = 12 hours
    old_stats_memory_limit = 16 M
    old_stats_session_min_time = 15 mins
    old_stats_user_min_time = 1 hours
    process_shutdown_filter =
    stats_http_rawlog_dir =
submission is the MTA's: smtpd on port 587
    submission_client_workarounds =
    submission_host =
    submission_logout_format = in=%i out=%o
    submission_max_mail_size = 0
    submission_max_recipients = 0
    submission_relay_command_timeout = 5 mins
    submission_relay_connect_timeout = 30 secs
    submission_relay_host =
    submission_relay_master_user =
    submission_relay_max_idle_time = 29 mins
    submission_relay_password =
    submission_relay_port = 25
    submission_relay_rawlog_dir =
    submission_relay_ssl = no
    submission_relay_ssl_verify = yes
    submission_relay_trusted = no
    submission_relay_user =
    submission_ssl = no
    submission_timeout = 30 secs
there is no dovecot-lda and no Sieve; mail comes by LMTP
    deliver_log_format = msgid=%m: %$
    rejection_reason = Your message to <%t> was automatically rejected:%n%r
    rejection_subject = Rejected: %s
    sendmail_path = /usr/sbin/sendmail
messages are stored whole
    mail_attachment_detection_options =
    mail_attachment_dir =
    mail_attachment_fs = sis posix
    mail_attachment_hash = %{sha1}
    mail_attachment_min_size = 128 k
mdbox is not read
    mdbox_preallocate_space = no
    mdbox_rotate_interval = 0
    mdbox_rotate_size = 10 M
mbox files are not written
    mbox_dirty_syncs = yes
    mbox_dotlock_change_timeout = 2 mins
    mbox_lazy_writes = yes
    mbox_lock_timeout = 5 mins
    mbox_md5 = apop3d
    mbox_min_index_size = 0
    mbox_read_locks = fcntl
    mbox_very_dirty_syncs = no
    mbox_write_locks = fcntl dotlock
logins are part of the session; there are no login processes
    login_access_sockets =
    login_plugins =
    login_proxy_rawlog_dir =
    login_source_ips =
an idle session takes no process that could be saved
    imap_hibernate_timeout = 0
there are no debug lines
    debug_log_path =
    mail_debug = no
    verbose_ssl = no
use tcpdump or strace: sessions are never written to files
    lmtp_proxy_rawlog_dir =
    lmtp_rawlog_dir =
    rawlog_dir =
one certificate; one of RSA or ECDSA will do for every client
    ssl_alt_cert =
    ssl_alt_key =
the key file has to be readable as it is
    ssl_key_password =
for connections to other servers, which are none
    ssl_client_cert =
    ssl_client_key =
OpenSSL's own choice is secure
    ssl_cipher_suites =
    ssl_curve_list =
nothing is chrooted
    mail_chroot =
one process with one owner; a session sees its user's Maildir only
    mail_access_groups =
    mail_full_filesystem_access = no
no server metadata, no dict
    dict_db_config =
    mail_attribute_dict =
LMTP delivers here; the MTA's transport tables say where else mail goes
    lmtp_proxy = no
ids come from pop3_uidl_format, or from `P` of dovecot-uidlist where another server has put them
    pop3_reuse_xuidl = no
    pop3_save_uidl = no
the MTA's engine takes `MAIL FROM: <a@b>` in any case, and a path needs its brackets
    lmtp_client_workarounds =
the detail is that of RCPT TO
    lda_original_recipient_header =
plugins of Dovecot's cannot be loaded
    mail_plugins =
no client of today needs them
    imap_client_workarounds =
there is no process for URLAUTH
    imap_urlauth_logout_format = in=%i out=%o
nothing is proxied
    imap_id_retain = no
log lines have syslog's time
    log_timestamp = %b %d %H:%M:%S
a keyword may be as long as the command it stands in
    mail_max_keyword_length = 50
locks of other programs are waited for up to ten seconds
    mail_max_lock_timeout = 0
a mailbox belongs to one process at a time
    mail_nfs_storage = no
tmp/ is not cleaned up: what was left there is yours to look at
    mail_temp_scan_interval = 1 weeks
sizes in the names of files are believed
    maildir_broken_filename_sizes = no
LITERAL+ is announced, and LITERAL- to clients that have enabled IMAP4rev2
    imap_literal_minus = no
METADATA is always there
    imap_metadata = no
auth_master_user_separator is the one that counts
    master_user_separator =
"""


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, default and what stands below."""
    lines = text.splitlines()
    for head, below in zip(lines[::2], lines[1::2], strict=True):
        name, _, default = head.partition(" =")
        yield name, default.strip(), below.strip()


def _read() -> Iterator[DovecotSetting]:
    for name, default, doc in _pairs(_WORKS):
        yield DovecotSetting(name, default, doc, True)
    for name, default, rest in _pairs(_FIXED):
        allowed, _, doc = rest.partition(": ")
        values = tuple(part.strip(" ") for part in allowed.split("`")[1::2])
        yield DovecotSetting(name, default, doc, False, values)
    reason = ""
    for line in _REFUSED.splitlines():
        if line.startswith("    "):
            name, _, default = line.partition(" =")
            yield DovecotSetting(name.strip(), default.strip(), reason, False, (default.strip(),))
        else:
            reason = line


SETTINGS = MappingProxyType({setting.name: setting for setting in _read()})

PLUGIN: frozenset[str] = frozenset(
    {
        "acl",
        "acl_anyone",
        "acl_defaults_from_inbox",
        "acl_groups",
        "acl_shared_dict",
        "quota",
        "quota_exceeded_message",
        "quota_grace",
        "quota_rule",
        "quota_status_nouser",
        "quota_status_overquota",
        "quota_status_success",
        *(f"quota_rule{number}" for number in range(2, 100)),
    }
)
"""Settings of `plugin { … }` that something here acts on."""

BUILT_IN = frozenset(("acl", "imap_acl", "imap_quota", "imap_zlib", "quota"))
"""Words of mail_plugins that ask for what is here in any case, or that are honoured."""
