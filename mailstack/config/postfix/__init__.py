"""Readers of Postfix's own configuration: main.cf (`MainCf`) and master.cf (`read_master`).

Standards: postconf(5) and master(5) of Postfix 3.7. What cannot be read raises `ConfigError`.
"""

from mailstack.config.postfix.main_cf import MainCf, Origin
from mailstack.config.postfix.master_cf import MasterService, enabled, read_master

__all__ = ["MainCf", "MasterService", "Origin", "enabled", "read_master"]
