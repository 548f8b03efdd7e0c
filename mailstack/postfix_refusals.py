"""What of Postfix 3.7 this MTA does not honour, and why: all that `postfix_parameters` has no use for.

A main.cf that sets such a parameter is read all the same, with a warning at start that gives the reason. It
is data, as the table that it completes; loaded when a main.cf names a parameter that nobody acts on, and for
the manual.
"""

from __future__ import annotations

from types import MappingProxyType

# A reason, then the parameters, indented.
_REFUSED = """\
there are no delivery slots: destinations take turns, and so do messages with many recipients
    default_delivery_slot_cost default_delivery_slot_discount default_delivery_slot_loan
    default_minimum_delivery_slots error_delivery_slot_cost error_delivery_slot_discount
    error_delivery_slot_loan error_minimum_delivery_slots lmtp_delivery_slot_cost
    lmtp_delivery_slot_discount lmtp_delivery_slot_loan lmtp_minimum_delivery_slots
    local_delivery_slot_cost local_delivery_slot_discount local_delivery_slot_loan
    local_minimum_delivery_slots relay_delivery_slot_cost relay_delivery_slot_discount
    relay_delivery_slot_loan relay_minimum_delivery_slots retry_delivery_slot_cost
    retry_delivery_slot_discount retry_delivery_slot_loan retry_minimum_delivery_slots
    smtp_delivery_slot_cost smtp_delivery_slot_discount smtp_delivery_slot_loan
    smtp_minimum_delivery_slots virtual_delivery_slot_cost virtual_delivery_slot_discount
    virtual_delivery_slot_loan virtual_minimum_delivery_slots
    bsmtp_delivery_slot_cost bsmtp_delivery_slot_discount bsmtp_delivery_slot_loan
    bsmtp_minimum_delivery_slots ifmail_delivery_slot_cost ifmail_delivery_slot_discount
    ifmail_delivery_slot_loan ifmail_minimum_delivery_slots maildrop_delivery_slot_cost
    maildrop_delivery_slot_discount maildrop_delivery_slot_loan maildrop_minimum_delivery_slots
    mailman_delivery_slot_cost mailman_delivery_slot_discount mailman_delivery_slot_loan
    mailman_minimum_delivery_slots scalemail-backend_delivery_slot_cost
    scalemail-backend_delivery_slot_discount scalemail-backend_delivery_slot_loan
    scalemail-backend_minimum_delivery_slots uucp_delivery_slot_cost uucp_delivery_slot_discount
    uucp_delivery_slot_loan uucp_minimum_delivery_slots
there is no postscreen; smtpd asks DNS block lists itself (reject_rbl_client)
    dnsblog_reply_delay dnsblog_service_name postscreen_access_list postscreen_allowlist_interfaces
    postscreen_bare_newline_action postscreen_bare_newline_enable postscreen_bare_newline_ttl
    postscreen_cache_cleanup_interval postscreen_cache_map postscreen_cache_retention_time
    postscreen_client_connection_count_limit postscreen_command_count_limit postscreen_command_filter
    postscreen_command_time_limit postscreen_denylist_action postscreen_disable_vrfy_command
    postscreen_discard_ehlo_keyword_address_maps postscreen_discard_ehlo_keywords
    postscreen_dnsbl_action postscreen_dnsbl_allowlist_threshold postscreen_dnsbl_max_ttl
    postscreen_dnsbl_min_ttl postscreen_dnsbl_reply_map postscreen_dnsbl_sites
    postscreen_dnsbl_threshold postscreen_dnsbl_timeout postscreen_enforce_tls
    postscreen_expansion_filter postscreen_forbidden_commands postscreen_greet_action
    postscreen_greet_banner postscreen_greet_ttl postscreen_greet_wait postscreen_helo_required
    postscreen_non_smtp_command_action postscreen_non_smtp_command_enable
    postscreen_non_smtp_command_ttl postscreen_pipelining_action postscreen_pipelining_enable
    postscreen_pipelining_ttl postscreen_post_queue_limit postscreen_pre_queue_limit
    postscreen_reject_footer postscreen_reject_footer_maps postscreen_tls_security_level
    postscreen_upstream_proxy_protocol postscreen_upstream_proxy_timeout postscreen_use_tls
    postscreen_watchdog_timeout
there is no tlsproxy: postscreen is its only user
    tlsproxy_client_CAfile tlsproxy_client_CApath tlsproxy_client_cert_file tlsproxy_client_chain_files
    tlsproxy_client_dcert_file tlsproxy_client_dkey_file tlsproxy_client_eccert_file
    tlsproxy_client_eckey_file tlsproxy_client_enforce_tls tlsproxy_client_fingerprint_digest
    tlsproxy_client_key_file tlsproxy_client_loglevel tlsproxy_client_loglevel_parameter
    tlsproxy_client_per_site tlsproxy_client_policy_maps tlsproxy_client_scert_verifydepth
    tlsproxy_client_security_level tlsproxy_client_use_tls tlsproxy_enforce_tls tlsproxy_service_name
    tlsproxy_tls_CAfile tlsproxy_tls_CApath tlsproxy_tls_always_issue_session_ids tlsproxy_tls_ask_ccert
    tlsproxy_tls_ccert_verifydepth tlsproxy_tls_cert_file tlsproxy_tls_chain_files tlsproxy_tls_ciphers
    tlsproxy_tls_dcert_file tlsproxy_tls_dh1024_param_file tlsproxy_tls_dh512_param_file
    tlsproxy_tls_dkey_file tlsproxy_tls_eccert_file tlsproxy_tls_eckey_file tlsproxy_tls_eecdh_grade
    tlsproxy_tls_exclude_ciphers tlsproxy_tls_fingerprint_digest tlsproxy_tls_key_file
    tlsproxy_tls_loglevel tlsproxy_tls_mandatory_ciphers tlsproxy_tls_mandatory_exclude_ciphers
    tlsproxy_tls_mandatory_protocols tlsproxy_tls_protocols tlsproxy_tls_req_ccert
    tlsproxy_tls_security_level tlsproxy_use_tls tlsproxy_watchdog_timeout
where a Postfix is installed: nothing follows from it here
    command_directory data_directory html_directory mailq_path manpage_directory meta_directory
    newaliases_path readme_directory sample_directory sendmail_path setgid_group shlib_directory
no workaround for old PIX firewalls
    lmtp_pix_workaround_delay_time lmtp_pix_workaround_maps lmtp_pix_workaround_threshold_time
    lmtp_pix_workarounds smtp_pix_workaround_delay_time smtp_pix_workaround_maps
    smtp_pix_workaround_threshold_time smtp_pix_workarounds
there is no postlogd: log lines go to maillog_file or to standard error
    maillog_file_compressor maillog_file_rotate_suffix postlog_service_name postlogd_watchdog_timeout
    syslog_facility
one instance per configuration folder; start another with its own
    multi_instance_directories multi_instance_enable multi_instance_group multi_instance_wrapper
    postmulti_control_commands postmulti_start_commands postmulti_stop_commands
there is no QMQP server
    qmqpd_authorized_clients qmqpd_client_port_logging qmqpd_error_delay qmqpd_timeout
there is no scache: the client keeps its own connections
    connection_cache_protocol_timeout connection_cache_service_name connection_cache_status_update_time
    connection_cache_ttl_limit
always yes
    respectful_logging
libdb 5.3 has buffers of its own choice
    berkeley_db_create_buffer_size berkeley_db_read_buffer_size
counts are kept by the smtpd processes themselves
    anvil_status_update_time application_event_drain_time
for Postfix's own tests
    destination_concurrency_feedback_debug fault_injection_code
of Postfix's queue file format
    backwards_bounce_logfile_compatibility queue_file_attribute_count_limit
a transport is an agent in the queue manager and cannot be lost
    transport_retry_time
always no: an alias without an owner keeps that of the alias that it stands in
    reset_owner_alias
delivered mail is removed
    dont_remove
nobody is told of new mail by comsat; IMAP IDLE does that
    biff
openssl is not called
    openssl_path
ports have the names of /etc/services
    known_tcp_ports
recipients of one message are not spread over deliveries
    qmgr_fudge_factor
there is no debugger hook
    debugger_command
Python's ssl does not set how long a chain may be; list fewer authorities in smtpd_tls_CAfile
    smtpd_tls_ccert_verifydepth
OpenSSL has no export ciphers any more; smtpd_tls_dh1024_param_file is for all others
    smtpd_tls_dh512_param_file
TLS sessions are resumed by tickets, which clients keep; tls_ssl_options = NO_TICKET forbids that
    smtpd_tls_session_cache_database smtpd_tls_session_cache_timeout
OpenSSL encrypts tickets by its own choice (AES-256-CBC)
    tls_session_ticket_cipher
OpenSSL reads its openssl.cnf by itself; the variable OPENSSL_CONF names another
    tls_config_file tls_config_name
OpenSSL is seeded by the kernel, and there is no tlsmgr
    tls_daemon_random_bytes tls_random_bytes tls_random_exchange_name tls_random_prng_update_period
    tls_random_reseed_period tls_random_source tlsmgr_service_name
always yes: nothing waits for the other side's close_notify
    tls_fast_shutdown_enable
always no: key fingerprints are of the SubjectPublicKeyInfo
    tls_legacy_public_key_fingerprints
of no effect, as in Postfix with OpenSSL 1.1 and later: tls_eecdh_auto_curves has the curves
    smtpd_tls_eecdh_grade tls_eecdh_strong_curve tls_eecdh_ultra_curve
a client's TLS sessions are not resumed: each connection has a handshake of its own
    lmtp_tls_session_cache_database lmtp_tls_session_cache_timeout smtp_tls_session_cache_database
    smtp_tls_session_cache_timeout
there is one SASL client, and it has no files of its own
    lmtp_sasl_path smtp_sasl_path
names are fully qualified; the DNS is asked for nothing else
    lmtp_dns_resolver_options smtp_dns_resolver_options
authorization identities are left to the server
    send_cyrus_sasl_authzid
of Postfix's own DNS library; negative answers live as long as RFC 2308 says
    dns_ncache_ttl_fix_enable
there is no proxymap: proxy: in front of a table is left out, and every table may be read
    proxy_read_maps proxy_write_maps proxymap_service_name proxywrite_service_name
answers of the DNS count as they are; reject_rbl_client LIST=127.0.0.2 chooses among those of a list
    smtpd_dns_reply_filter
there is no verbose log of single peers; notify_classes sends transcripts of sessions that go wrong
    debug_peer_level debug_peer_list
mail counts as 8-bit where it has such octets, whatever its headers say
    detect_8bit_encoding_header
always yes: a message has a queue id with its first good recipient, a file when its content comes
    smtpd_delay_open_until_valid_rcpt
always yes: a CR of its own becomes a space, a LF of its own the end of a line
    cleanup_replace_stray_cr_lf
old: mailbox_delivery_lock = dotlock
    sun_mailtool_compatibility
a date of a release; mail_version may stand in texts
    mail_release_date
ETRN is for relay_domains, and the queue manager looks through the deferred queue for their mail
    fast_flush_domains fast_flush_purge_time fast_flush_refresh_time flush_service_name
sizes of TCP's buffers are the kernel's choice (sysctl net.ipv4.tcp_rmem, tcp_wmem)
    tcp_windowsize
of Postfix's processes: here smtpd and the queue manager do it all
    address_verify_service_name bounce_service_name cleanup_service_name defer_service_name
    error_service_name fork_attempts fork_delay ipc_idle ipc_timeout ipc_ttl pickup_service_name
    process_id process_name qmgr_daemon_timeout qmgr_ipc_timeout queue_service_name rewrite_service_name
    service_name showq_service_name smtpd_service_name trace_service_name trigger_timeout
the environment of the process is taken as it is: set variables where it is started
    import_environment
recipients are read with the message; qmgr_message_recipient_limit is for all transports together
    bsmtp_extra_recipient_limit bsmtp_recipient_limit bsmtp_recipient_refill_delay
    bsmtp_recipient_refill_limit default_extra_recipient_limit default_recipient_limit
    default_recipient_refill_delay default_recipient_refill_limit error_extra_recipient_limit
    error_recipient_limit error_recipient_refill_delay error_recipient_refill_limit
    ifmail_extra_recipient_limit ifmail_recipient_limit ifmail_recipient_refill_delay
    ifmail_recipient_refill_limit lmtp_extra_recipient_limit lmtp_recipient_limit
    lmtp_recipient_refill_delay lmtp_recipient_refill_limit local_extra_recipient_limit
    local_recipient_limit local_recipient_refill_delay local_recipient_refill_limit
    maildrop_extra_recipient_limit maildrop_recipient_limit maildrop_recipient_refill_delay
    maildrop_recipient_refill_limit mailman_extra_recipient_limit mailman_recipient_limit
    mailman_recipient_refill_delay mailman_recipient_refill_limit relay_extra_recipient_limit
    relay_recipient_limit relay_recipient_refill_delay relay_recipient_refill_limit
    retry_extra_recipient_limit retry_recipient_limit retry_recipient_refill_delay
    retry_recipient_refill_limit scalemail-backend_extra_recipient_limit
    scalemail-backend_recipient_limit scalemail-backend_recipient_refill_delay
    scalemail-backend_recipient_refill_limit smtp_extra_recipient_limit smtp_recipient_limit
    smtp_recipient_refill_delay smtp_recipient_refill_limit uucp_extra_recipient_limit
    uucp_recipient_limit uucp_recipient_refill_delay uucp_recipient_refill_limit
    virtual_extra_recipient_limit virtual_recipient_limit virtual_recipient_refill_delay
    virtual_recipient_refill_limit
always yes: every TLS session has an id
    smtpd_tls_always_issue_session_ids
always yes: Delivered-To: is the recipient's address, whatever aliases make of it
    frozen_delivered_to
always yes: what main.cf and master.cf have without effect is warned about
    helpful_warnings
always no: names outside ASCII follow UTS 46 without its transitional forms
    enable_idna2003_compatibility
always: lines that end in CRLF are taken as lines
    sendmail_fix_line_endings
a configuration is the folder that --config names
    alternate_config_directories config_directory
no process is watched from within: every wait has its own deadline, and the master sees to its children
    daemon_timeout
a table of an unknown type is a configuration error, one that cannot be read a temporary failure
    daemon_table_open_error_is_fatal
the deferred queue is hashed, and no other; hash_queue_depth says how deep
    hash_queue_names
"""


def _read(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    reason = ""
    for line in text.splitlines():
        if line.startswith(" "):
            found.update((name, reason) for name in line.split())
        else:
            reason = line
    return found


REFUSED = MappingProxyType(_read(_REFUSED))
"""Parameter -> why it is not honoured."""
