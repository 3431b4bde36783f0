"""Weights in shared memory: what is read is what was written, to the bit; what is left behind is swept."""

import contextlib
import fcntl
import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import common.shared_memory
from common.errors import ReceiveError
from common.shared_memory import Segment, local_segment, receipt_of, segment_path, sweep_segments

ROOT = Path(__file__).parents[3]


@pytest.fixture
def segment(tmp_path: Path) -> Segment:
    """64 KiB."""
    return Segment(tmp_path / "segment", num_bytes=2**16)


TENSORS = {
    "matrix": torch.arange(6.0).view(2, 3),
    "bf16": torch.tensor([1.5, -0.0, 3.0], dtype=torch.bfloat16),
    "f16": torch.tensor([[0.1]], dtype=torch.float16),
    "scalar": torch.tensor(7.0),
    "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
    "transposed": torch.arange(6.0).view(2, 3).t(),
}


def bits(tensor: torch.Tensor) -> bytes:
    """NaN and -0.0 included."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_tensors_come_back_to_the_bit(segment: Segment) -> None:
    segment.write(TENSORS)
    got = Segment(segment.path).read()
    assert list(got) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert (got[name].shape, got[name].dtype) == (tensor.shape, tensor.dtype), name
        assert bits(got[name]) == bits(tensor), name


def test_a_tensor_without_elements_comes_back(segment: Segment) -> None:
    segment.write({"empty": torch.zeros(0, 4), "full": torch.ones(2)})
    got = segment.read()
    assert got["empty"].shape == (0, 4)
    assert got["full"].tolist() == [1.0, 1.0]


def test_every_tensor_is_aligned(segment: Segment) -> None:
    segment.write(TENSORS)
    assert [t.data_ptr() % 64 for t in segment.read().values()] == [0] * len(TENSORS)


def test_a_manifest_says_what_lies_there(segment: Segment) -> None:
    import blake3

    written = segment.write(TENSORS)
    assert Segment(segment.path).manifest() == written
    for receipt, (name, tensor) in zip(written, TENSORS.items(), strict=True):
        assert (receipt.name, receipt.shape) == (name, tuple(tensor.shape))
        assert receipt.dtype == str(tensor.dtype).removeprefix("torch.")
        assert receipt.digest == blake3.blake3(bits(tensor)).hexdigest()[:16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_bit_changes_one_digest(segment: Segment, dtype: torch.dtype) -> None:
    tensors = {"a": torch.ones(5, dtype=dtype), "b": torch.ones(5, dtype=dtype)}
    before = segment.write(tensors)
    segment.read()["b"].view(torch.uint8)[4] ^= 1
    after = segment.manifest()
    assert after[0] == before[0]
    assert after[1].digest != before[1].digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (7,), (0, 2), ()])
def test_the_receipt_of_a_tensor_is_that_of_its_copy(
    segment: Segment, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert segment.write({"w": tensor}) == [receipt_of("w", tensor)]
    turned = tensor.T if tensor.ndim == 2 else tensor
    assert segment.write({"w": turned.contiguous()}) == [receipt_of("w", turned)]


def test_a_digest_of_negative_zero_is_its_own(segment: Segment) -> None:
    plus, minus = segment.write({"plus": torch.zeros(1), "minus": torch.tensor([-0.0])})
    assert plus.digest != minus.digest


def test_writing_replaces_what_was_there(segment: Segment) -> None:
    segment.write({"old": torch.ones(2000), "kept": torch.zeros(3)})
    segment.write({"kept": torch.tensor([2.0])})
    assert {n: t.tolist() for n, t in segment.read().items()} == {"kept": [2.0]}


def test_too_much_is_refused_and_leaves_what_was_there(segment: Segment) -> None:
    before = segment.write({"a": torch.ones(3)})
    with pytest.raises(ValueError, match=r"segment segment must hold \d+ bytes, got 65536"):
        segment.write({"b": torch.zeros(2**14)})
    assert segment.manifest() == before


def test_a_segment_of_the_needed_size_is_large_enough(tmp_path: Path) -> None:
    for number, bucket in enumerate([TENSORS, {"one": torch.zeros(1000)}]):
        with pytest.raises(ValueError, match="must hold") as refusal:
            Segment(tmp_path / f"small-{number}", num_bytes=1).write(bucket)
        needed = int(re.findall(r"must hold (\d+) bytes", str(refusal.value))[0])
        Segment(tmp_path / f"exact-{number}", num_bytes=needed).write(bucket)
        with pytest.raises(ValueError, match="must hold"):
            Segment(tmp_path / f"short-{number}", num_bytes=needed - 1).write(bucket)


def test_the_used_bytes_end_with_the_last_tensor(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "large", num_bytes=2**16)
    segment.write(TENSORS)
    used = segment.path.read_bytes()[: segment.num_used_bytes]
    other = Segment(tmp_path / "small", num_bytes=len(used))
    other.path.write_bytes(used)
    assert other.manifest() == segment.manifest()
    segment.write({})
    assert segment.num_used_bytes < len(used)


def test_an_unknown_dtype_is_refused_by_name(segment: Segment) -> None:
    with pytest.raises(ValueError, match=r"counter must be one of .* got int64"):
        segment.write({"counter": torch.zeros(2, dtype=torch.int64)})


def test_a_segment_is_never_made_twice(segment: Segment) -> None:
    with pytest.raises(FileExistsError):
        Segment(segment.path, num_bytes=64)
    assert segment.num_bytes == 2**16


def test_a_segment_is_its_owners_alone(segment: Segment) -> None:
    assert segment.path.stat().st_mode & 0o777 == 0o600


def test_a_segment_that_finds_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"\[Errno"):
        Segment(tmp_path / "huge", num_bytes=2**60)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_closing_unlinks_only_when_told(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "s", num_bytes=4096)
    other = Segment(tmp_path / "s")
    other.close()
    assert segment.path.exists()
    segment.close(unlink=True)
    assert not segment.path.exists()


def test_memory_stays_mapped_until_the_last_view_goes(segment: Segment) -> None:
    def is_mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    path = segment.path
    segment.write({"a": torch.tensor([3.0])})
    view = segment.read()["a"]
    segment.close(unlink=True)
    # looked up first: reading through a view of unmapped memory ends the process
    assert is_mapped()
    assert view.tolist() == [3.0]
    del view, segment
    gc.collect()
    assert not is_mapped()


OWNER = """
import sys
from pathlib import Path
from common.shared_memory import Segment
segment = Segment(Path(sys.argv[1]), num_bytes=4096)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where segments lie."""
    monkeypatch.setattr(common.shared_memory, "SEGMENT_FOLDER", tmp_path)
    return tmp_path


@contextlib.contextmanager
def owner_of(path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that holds a segment."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_segment_is_swept_once_its_owner_was_killed(folder: Path) -> None:
    path = segment_path("learner", 0)
    with owner_of(path) as process:
        assert sweep_segments() == []
        process.kill()
        process.wait()
        assert sweep_segments() == [path]
    assert list(folder.iterdir()) == []


def test_a_segment_whose_owner_looks_dead_is_kept(folder: Path) -> None:
    # as from another PID namespace: no process of that number is to be seen
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    path = folder / f"omni-rlvr-{gone.pid}-0-{16 * '0'}"
    with owner_of(path):
        assert sweep_segments() == []
        assert path.exists()


def test_a_segment_of_a_dead_owner_is_swept_although_its_number_lives_again(folder: Path) -> None:
    path = folder / f"omni-rlvr-{os.getpid()}-0-{16 * '0'}"
    with owner_of(path):
        pass
    assert sweep_segments() == [path]


def test_one_who_maps_a_segment_does_not_hold_it(folder: Path) -> None:
    path = segment_path("learner", 0)
    with owner_of(path):
        reader = Segment(path)
    assert sweep_segments() == [path]
    assert reader.num_bytes == 4096


def test_a_closed_segment_is_held_no_longer(folder: Path) -> None:
    segment = Segment(segment_path("learner", 0), num_bytes=4096)
    assert sweep_segments() == []
    segment.close()
    assert sweep_segments() == [segment.path]


def test_a_segment_swept_before_it_was_locked_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flock, sweeps = segment_path("learner", 0), fcntl.flock, 0

    def swept_first(descriptor: int, operation: int) -> None:
        nonlocal sweeps
        if sweeps == 0:
            sweeps = 1
            path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(common.shared_memory.fcntl, "flock", swept_first)
    segment = Segment(path, num_bytes=4096)
    assert sweeps == 1
    assert path.stat().st_ino == os.fstat(segment._lock or -1).st_ino  # pyright: ignore[reportPrivateUsage]
    assert sweep_segments() == []


def test_only_segments_are_swept(folder: Path) -> None:
    target = folder / "notes"
    strangers = [folder / "omni-rlvr-notes", folder / "other-learner-0-0123456789abcdef", target]
    for path in strangers:
        path.write_bytes(b"x")
    link = segment_path("learner", 0)
    link.symlink_to(target)
    assert sweep_segments() == []
    assert sorted(folder.iterdir()) == sorted([*strangers, link])


def test_a_segment_of_another_node_is_refused(folder: Path) -> None:
    segment = Segment(segment_path("learner", 0), num_bytes=4096)
    assert local_segment(str(segment.path)) == segment.path
    elsewhere = Segment(folder.with_name("other-node-segment"), num_bytes=4096)
    for path in (elsewhere.path, segment_path("learner", 0)):
        with pytest.raises(ReceiveError, match=f"segment {path} must lie in {folder} of this node"):
            local_segment(str(path))


def test_no_two_segments_share_a_name() -> None:
    paths = {segment_path("learner", 1) for _ in range(100)}
    assert len(paths) == 100
    assert all(p.parent == Path("/dev/shm") for p in paths)
