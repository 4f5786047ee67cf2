"""Records with restricted access, and the rules that restrict them: no read, no write, and now this, now that."""

from __future__ import annotations

from daqca.sim import Ports, SoftIOC

VALUE = 7.0


class AccessIOC(SoftIOC):
    """A soft IOC with these records and rules."""

    def __init__(self, prefix: str, ports: Ports | None = None):
        self.prefix = prefix
        super().__init__(access_database(prefix), access_security=access_rules(prefix), ports=ports)

    def name(self, ending: str) -> str:
        return self.prefix + ending


def access_database(prefix: str) -> str:
    """Return records ``open``, ``nowrite``, ``noread``, ``sometimes`` and the ``switch`` of the last one.

    While ``switch`` is 0, ``sometimes`` may be read only; while it is 1, read
    and written; while it is 2, neither. Each has the value 7.
    """
    groups = {"open": "DEFAULT", "nowrite": "NOWRITE", "noread": "NOREAD", "sometimes": "SOMETIMES"}
    records = [
        f'record(ao, "{prefix}{name}") {{ field(PINI, YES) field(VAL, {VALUE}) field(ASG, "{group}") }}'
        for name, group in groups.items()
    ]
    records.append(f'record(longout, "{prefix}switch") {{ field(PINI, YES) field(VAL, 0) }}')
    return "\n".join(records)


def access_rules(prefix: str) -> str:
    """Return the access security file for ``access_database``."""
    return f"""
ASG(DEFAULT) {{ RULE(1, READ) RULE(1, WRITE) }}
ASG(NOWRITE) {{ RULE(1, READ) }}
ASG(NOREAD) {{ RULE(0, NONE) }}
ASG(SOMETIMES) {{
    INPA("{prefix}switch")
    RULE(1, READ) {{ CALC("A<2") }}
    RULE(1, WRITE) {{ CALC("A=1") }}
}}
"""
