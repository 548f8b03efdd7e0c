"""The command line: one file per command or command group, imported only when the command is used."""
