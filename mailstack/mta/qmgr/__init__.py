"""The queue manager: decides which message is delivered when, where to, and how many at once."""
