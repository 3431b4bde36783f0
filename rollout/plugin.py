"""Code for every process that vLLM starts, through the entry-point group `vllm.general_plugins`."""


def register() -> None:
    """Registers the shared-memory receiver, ties the process to its parent and records why it ends.

    Harmless when repeated. vLLM's core notices the end of the actor above it in most cases, and not when that is
    killed together with the driver: it would then hold its memory for ever.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from common.runtime.parent_watch import end_with_parent
    from rollout.failure import record_failures
    from rollout.weights import BACKEND

    if BACKEND not in WeightTransferEngineFactory._registry:  # pyright: ignore[reportPrivateUsage]
        WeightTransferEngineFactory.register_engine(BACKEND, "rollout.weights", "SharedMemoryReceiver")
    end_with_parent()
    record_failures()
