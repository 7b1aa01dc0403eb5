"""The bus: events on JetStream, and the two kinds of consumers.

*Work* is shared: one durable consumer, each event handled by one process (`WorkConsumer`). A *broadcast* reaches every
process, which reads everything anew when it may have missed something (`BroadcastConsumer`). Neither is relied on
alone: what must happen stands in Postgres, and a `Reconciler` finds what was forgotten.
"""

from lensmith_platform.bus.broadcast import BroadcastConsumer
from lensmith_platform.bus.connection import Bus, CoreSubscription, connect
from lensmith_platform.bus.reconciler import Reconciler
from lensmith_platform.bus.work import WorkConsumer
from lensmith_platform.bus.workers import is_worked

__all__ = ["BroadcastConsumer", "Bus", "CoreSubscription", "Reconciler", "WorkConsumer", "connect", "is_worked"]
