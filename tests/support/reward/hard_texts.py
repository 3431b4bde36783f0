"""Completions that nobody would write, to see what becomes of them."""

import random

PIECES = (
    *(
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<Think>",
        "</ answer>",
        "<",
        ">",
        "</",
        "<b>",
        "<answer",
        "think>",
    ),
    *(" ", "\n", "\t", "\r\n", "\x0b", "\x1c", "\u00a0", "\u2003", "\u2028", "\u3000", "\x00", "\x1b[31m", "\x7f"),
    *("happy", "sad", "not", "angry", "surprise", "Happy", "happiness", "no voice", "his brows", "loud", "don't"),
    *("高兴", "没有声音", "眉", "，", "。", "「我很累」", "“so tired”", '"so tired"', '"', "“", "「", "'", "’"),
    *(
        "\u202eevil\u202c",
        "שמח",
        "غاضب",
        "e\u0301",
        "\ud800",
        "\U0001f600",
        "\u200b",
        "ﬁ",
        "ＡＮＧＲＹ",
        "x",
        ".",
        "!?",
    ),
)
"""Tags whole and torn, white space of every kind, words of each reward, right-to-left and broken text."""
LONG_PIECES = (
    *(
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<think></think>",
        "</think><answer>",
        "<think></think><answer>",
    ),
    *("<answer>\n", "</think> ", "<", "</", "<a", "</a ", "<answer", "a", "a ", "a.", " ", "\n", "\t\n", ".", "!"),
    *(
        '"',
        "“",
        "「",
        '"a b" ',
        "“a b",
        "'",
        "a'",
        "not ",
        "no ",
        "happy ",
        "happy, ",
        "not happy or ",
        "happy and ",
    ),
    *(
        "brows ",
        "voice ",
        "score: ",
        "高",
        "高兴",
        "不",
        "没有",
        "\x00",
        "\u202e",
        "\ud800",
        "e\u0301",
        "ﬁ",
        "\u200b",
        "-",
        "can't ",
    ),
)
"""What a text of a million characters is made of."""


def random_texts(num: int, *, seed: int) -> list[str]:
    """Of 0 to 24 pieces, half of them in the form of an answer but for the pieces within."""
    draw = random.Random(seed)

    def pieces(most: int) -> str:
        return "".join(draw.choices(PIECES, k=draw.randint(0, most)))

    def formed() -> str:
        answer = draw.choice(["happy", "\t高兴 ", pieces(4), pieces(4)])
        return f"<think>{pieces(8)}</think>{draw.choice(['', ' ', pieces(2)])}<answer>{answer}</answer>"

    return [pieces(24) if draw.random() < 0.5 else formed() for _ in range(num)]


def long_texts(length: int) -> list[str]:
    """Each of about `length` characters: one piece again and again, bare and within the form of an answer."""
    bare = [piece * (length // len(piece)) for piece in LONG_PIECES]
    thoughts = [f"<think>{text}</think><answer>happy</answer>" for text in bare]
    answers = [f"<think>{text[: length // 2]}</think><answer>{text[: length // 2]}</answer>" for text in bare]
    return [*bare, *thoughts, *answers]
