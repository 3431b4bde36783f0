"""What vLLM loads in each of its processes, through the entry-point group `vllm.general_plugins`."""


def register() -> None:
    """Registers the shared-memory weight receiver; harmless when repeated."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from rollout.weights import BACKEND

    if BACKEND not in WeightTransferEngineFactory._registry:  # pyright: ignore[reportPrivateUsage]
        WeightTransferEngineFactory.register_engine(BACKEND, "rollout.weights", "SharedMemoryReceiver")
