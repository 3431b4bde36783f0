"""Code for every process that vLLM starts, through the entry-point group `vllm.general_plugins`."""


def register() -> None:
    """Registers the shared-memory receiver, ends the process with its parent, and records its cause of death."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from common.runtime.parent_watch import end_with_parent
    from rollout.failure import record_failures
    from rollout.weights import BACKEND

    if BACKEND not in WeightTransferEngineFactory._registry:  # pyright: ignore[reportPrivateUsage]
        WeightTransferEngineFactory.register_engine(BACKEND, "rollout.weights", "SharedMemoryReceiver")
    # vLLM's core outlives an actor that is killed together with the driver, and keeps its memory
    end_with_parent()
    record_failures()
