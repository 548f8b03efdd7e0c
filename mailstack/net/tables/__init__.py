"""Clients of lookup services: tcp_table(5), socketmap_table(5), memcache_table(5), and NIS."""
