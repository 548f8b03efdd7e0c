"""What lies on disk: queue files, Maildir, indexes, lookup tables, durable-write primitives. No sockets."""
