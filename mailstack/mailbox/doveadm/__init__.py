"""What an administrator asks of others' mailboxes: commands of doveadm(1), and their socket."""
