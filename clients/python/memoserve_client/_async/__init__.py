"""The asyncio client: the source from which the blocking one is written."""
