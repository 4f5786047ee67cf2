"""``daqca demo``: the main job, end to end, on an IOC of its own."""

import click


@click.command()
def demo() -> int:
    """Snapshot 20,000 PVs and record a detector, on an IOC of its own."""
    return 0
