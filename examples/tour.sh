#!/bin/sh
# What `make up` does: a throwaway domain, a message through it, and how to go on. BIN is where mailstack lies.
set -eu
BIN=${BIN:-.venv/bin}
mailstack() { "$BIN/mailstack" -f examples/minimal/mailstack.yaml -p tour "$@"; }
bold() { printf '\n\033[1m%s\033[0m\n' "$*"; }
if [ ! -t 1 ] || [ -n "${NO_COLOR:-}" ]; then bold() { printf '\n%s\n' "$*"; }; fi

bold "Starting a mail domain from examples/minimal/mailstack.yaml"
mailstack up
eval "$(mailstack env)"

bold "Sending a message to $MAILSTACK_USER over submission (AUTH, TLS)"
subject="It works: $(date '+%Y-%m-%d %H:%M:%S')"
mailstack send --to "$MAILSTACK_USER" --subject "$subject" --body "This message went through an MTA, a queue and LMTP into a Maildir."

bold "Waiting for it over IMAP"
mailstack mail wait "$MAILSTACK_USER" --subject "$subject" --timeout 20s

bold "Your mail domain is up"
line() { printf '  %-12s %s\n' "$@"; }
line SMTP "$MAILSTACK_HOST:$MAILSTACK_SMTP_PORT, submission $MAILSTACK_SUBMISSION_PORT (STARTTLS), $MAILSTACK_SUBMISSIONS_PORT (TLS)"
line IMAP "$MAILSTACK_HOST:$MAILSTACK_IMAP_PORT, with TLS $MAILSTACK_IMAPS_PORT"
line POP3 "$MAILSTACK_HOST:$MAILSTACK_POP3_PORT, with TLS $MAILSTACK_POP3S_PORT"
line DNS "$MAILSTACK_HOST:$MAILSTACK_DNS_PORT"
line user "$MAILSTACK_USER"
line password "$MAILSTACK_PASSWORD"
line CA "$MAILSTACK_CA_FILE"
echo
line() { printf '  %-46s %s\n' "$@"; }
line "$BIN/mailstack -p tour status" "what runs where"
line "$BIN/mailstack -p tour mail ls $MAILSTACK_USER" "what has arrived"
line "$BIN/mailstack -p tour logs -f" "watch it work"
line "eval \"\$($BIN/mailstack -p tour env)\"" "the above as variables"
line "$BIN/mailstack init DIR" "a spec of your own"
line "make down" "stop and remove it"
