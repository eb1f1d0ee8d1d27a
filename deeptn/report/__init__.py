"""A page about a compression: what it saves, what it costs, and beside what."""

from .page import write_report
from .rows import Row, takeaway

__all__ = ["Row", "takeaway", "write_report"]
