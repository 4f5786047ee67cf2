"""What stands behind `daqca.pv_proxy`: the PVs of an engine together, their texts, their use with asyncio."""
