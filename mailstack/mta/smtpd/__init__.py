"""smtpd: takes mail from the network (smtpd(8) of Postfix).

`session` is one client, `restrictions` decide who may, `recipients` knows who exists, `settings` is what
main.cf and master.cf say, `worker` is the process that serves every smtpd line of master.cf.
"""
