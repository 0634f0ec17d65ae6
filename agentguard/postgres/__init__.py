"""Connections to PostgreSQL, for the store and for the audit log. They need the extra ``postgres``.

address      where the server is, and how a connection to it is protected
connector    opens connections, and has each looked at before it is used
links        one connection, whose waiting has an end
durability   what a server has to promise before anything is written
errors       what an operator is told
"""
