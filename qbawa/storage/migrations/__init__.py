"""Changes of what stands in the lake, numbered; `qbawa.storage.upgrade` runs those that a lake has not been through.

Each module is one change and has one function, `migrate(lake)`. It may be killed anywhere and run again, by several
processes at once too: it makes its change by ordinary commits and leaves alone what has the new form already. A migration
that has been released is never edited; columns that are merely added need none (`qbawa.storage.lake`).
"""
