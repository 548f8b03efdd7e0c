"""The mail transfer agent: one module per Postfix daemon, under Postfix's names."""
