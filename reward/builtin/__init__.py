"""Built-in rewards: one file each, and the table of their names.

The value None means that the request lacks an input of the reward. It depends on the record and the presented
modalities alone, so it is the same for a whole group. `bind` gives a reward with `needs_engines` its engines.
"""

from collections.abc import Mapping

from reward.builtin.accuracy import AccuracyReward, ClassBalancedReward
from reward.builtin.accuracy_r1omni import PublishedAccuracyReward
from reward.builtin.consistency import ConsistencyReward
from reward.builtin.evidence import EvidenceReward
from reward.builtin.format import FormatReward, PublishedFormatReward
from reward.builtin.judge import JudgeReward
from reward.builtin.language import LanguageReward
from reward.builtin.length import LengthPenalty
from reward.builtin.modality_gain import ModalityGainReward
from reward.builtin.multi_label import MultiLabelReward
from reward.builtin.repetition import RepetitionPenalty
from reward.builtin.soft_label import SoftLabelReward
from reward.builtin.transcript import TranscriptReward
from reward.builtin.wheel import WheelReward

BUILTIN: Mapping[str, type] = {
    "format": FormatReward,
    "format_r1omni": PublishedFormatReward,
    "accuracy": AccuracyReward,
    "accuracy_r1omni": PublishedAccuracyReward,
    "class_balanced": ClassBalancedReward,
    "soft_label": SoftLabelReward,
    "multi_label_f1": MultiLabelReward,
    "wheel_f1": WheelReward,
    "think_answer_consistency": ConsistencyReward,
    "evidence": EvidenceReward,
    "transcript_wer": TranscriptReward,
    "length": LengthPenalty,
    "repetition": RepetitionPenalty,
    "language": LanguageReward,
    "modality_gain": ModalityGainReward,
    "judge": JudgeReward,
}
