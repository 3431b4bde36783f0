"""Visible and audible cues of emotions, with their English and Chinese words; the brows are one cue."""

import re
from collections.abc import Iterable, Mapping

from common.types import Modality

VISIBLE: Mapping[str, str] = {
    "face": "face faces facial expression expressions countenance features 表情 面部 脸 面容 神情",
    "brows": "brow brows eyebrow eyebrows forehead frown frowns frowned frowning furrow furrowed furrows 眉 皱眉",
    "eyes": "eye eyes eyelid eyelids gaze gazes gazing glance glances stare stares staring glare glares "
    "glaring blink blinks blinking squint squints squinting eyed 眼睛 双眼 眼神 眼眶 眼角 目光 瞪",
    "tears": "tear tears teary tearful 泪 流泪",
    "mouth": "mouth lip lips jaw jaws teeth chin grimace grimaces grimacing pout pouts pouting 嘴 唇 下巴 牙",
    "smile": "smile smiles smiled smiling grin grins grinning smirk smirks smirking beam beams beaming 微笑 笑容",
    "cheeks": "cheek cheeks nose nostrils wrinkle wrinkles wrinkled wrinkling blush blushes blushing 脸颊 鼻",
    "head": "head nod nods nodding nodded tilt tilts tilted tilting 点头 摇头 低头 抬头 歪头",
    "hands": "hand hands fist fists finger fingers palm palms gesture gestures gesturing gesticulates clap "
    "claps clapping 双手 手势 手指 手掌 握拳 拳头 挥手",
    "arms": "arm arms shoulder shoulders shrug shrugs shrugging hug hugs hugging 手臂 肩 拥抱",
    "body": "posture body lean leans leaning slump slumps slumped hunched recoils stiff tense tensed "
    "trembling shaking 身体 姿势 姿态 动作",
}
AUDIBLE: Mapping[str, str] = {
    "voice": "voice voices vocal tone tones intonation timbre 声音 嗓音 语气 语调 口吻",
    "pitch": "pitch pitched shrill hoarse husky 音调 音高 尖锐 沙哑",
    "loudness": "loud loudly louder quiet quietly softly volume whisper whispers whispering whispered murmur "
    "murmurs muttering mutters 音量 大声 小声 低声 轻声",
    "breath": "breath breaths breathing breathes breathless gasp gasps gasped gasping sigh sighs sighed "
    "sighing panting 呼吸 叹气 叹息 喘",
    "pace": "pause pauses pausing paused stutter stutters stuttering stammer stammers stammering "
    "语速 停顿 结巴 口吃",
    "words": "utterance utterances said says saying 台词 话语",
    "sound": "sound sounds sounding audible audibly audio noise noises music silence 音乐 声响 寂静",
}
SEEN_AND_HEARD: Mapping[str, str] = {
    "laughter": "laugh laughs laughed laughing laughter chuckle chuckles chuckling giggle giggles giggling "
    "大笑 笑声",
    "weeping": "cry cries cried crying weep weeps weeping sob sobs sobbed sobbing wail wails wailing whimper "
    "whimpers whimpering 哭 抽泣 哽咽",
    "shouting": "shout shouts shouted shouting yell yells yelled yelling scream screams screamed screaming "
    "shriek shrieks shrieking roars roaring 喊 吼 尖叫",
    "speech": "speech speak speaks speaking spoke spoken talk talks talking argue argues arguing 说话 交谈",
}
"""Cues of either modality; they do not show that an absent modality was claimed."""
_NEGATOR = re.compile("no|not|without|never|neither|nor|none|cannot|[a-z]+n't")
_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)*|[.,;:!?]")
_REACH = 3  # negated words after a negator, within a clause
_CHINESE_CLAUSE_END = re.compile(r"[，。；！？,.;!?\n]+")
_CHINESE_NEGATOR = re.compile("没|无|不|未")


class Lexicon:
    """The cues of one modality by word."""

    def __init__(self, table: Mapping[str, str]) -> None:
        self._own = frozenset(table)
        self._cue_of = {word: cue for cue, words in {**table, **SEEN_AND_HEARD}.items() for word in words.split()}
        longest_first = sorted((w for w in self._cue_of if not w.isascii()), key=len, reverse=True)
        self._chinese = re.compile("|".join(longest_first))

    def named(self, text: str) -> set[str]:
        """Cues that a text names, including denied ones: "no smile" shows that it was looked for."""
        words = set(_TOKEN.findall(text.lower())) & self._cue_of.keys()
        return {self._cue_of[word] for word in words} | self._in_chinese(text)

    def claimed(self, text: str) -> set[str]:
        """Cues of this modality alone that a text affirms: not "no voice is heard"."""
        cues = self._affirmed(_TOKEN.findall(text.lower().replace("’", "'")))
        if not text.isascii():
            clauses = (c for c in _CHINESE_CLAUSE_END.split(text) if not _CHINESE_NEGATOR.search(c))
            cues |= {cue for clause in clauses for cue in self._in_chinese(clause)}
        return cues & self._own

    def _affirmed(self, tokens: Iterable[str]) -> set[str]:
        cues: set[str] = set()
        num_negated = 0
        for token in tokens:
            if _NEGATOR.fullmatch(token):
                num_negated = _REACH
            elif not token[0].isalpha():
                num_negated = 0
            elif num_negated:
                num_negated -= 1
            elif token in self._cue_of:
                cues.add(self._cue_of[token])
        return cues

    def _in_chinese(self, text: str) -> set[str]:
        return set() if text.isascii() else {self._cue_of[word] for word in self._chinese.findall(text)}


LEXICONS: Mapping[Modality, Lexicon] = {"video": Lexicon(VISIBLE), "audio": Lexicon(AUDIBLE)}
