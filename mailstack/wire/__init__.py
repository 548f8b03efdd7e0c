"""Sans-I/O protocol engines and message parsing: no sockets, no files, no clocks, no logging.

Every engine has the same shape. Octets go in with `receive_data(data)` (`b""` says that the peer has closed
its side), events come out of `next_event()` until it returns `NEED_DATA`, and what is to be sent comes out of
`data_to_send()`. States and their legal transitions are data in a `states.py` beside the engine.
"""
