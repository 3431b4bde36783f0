"""Chinese words by emotion, and words that affect a denial; simplified and traditional."""

from collections.abc import Mapping

from common.emotions.negation import Kind

CHINESE: Mapping[str, str] = {
    "happy": """
        高兴 高興 快乐 快樂 开心 開心 喜悦 喜悅 愉快 欢乐 歡樂 欢喜 歡喜 欣喜 欣慰 幸福 兴高采烈 興高采烈
        愉悦 愉悅 狂喜 欢快 歡快 欢欣 歡欣 喜乐 喜樂""",
    "sad": """
        悲伤 悲傷 难过 難過 伤心 傷心 悲痛 哀伤 哀傷 忧伤 憂傷 悲哀 沮丧 沮喪 忧郁 憂鬱 抑郁 抑鬱 悲戚 哀愁
        悲凉 悲涼 心碎 绝望 絕望 悲切 伤感 傷感 低落""",
    "neutral": "中性 中立 面无表情 面無表情 无表情 無表情 没有表情 沒有表情 毫无表情 毫無表情",
    "angry": """
        愤怒 憤怒 生气 生氣 气愤 氣憤 恼怒 惱怒 恼火 惱火 发怒 發怒 暴怒 怒气 怒氣 愤慨 憤慨 怒火 大怒 愤恨
        憤恨 激愤 激憤 发火 發火 震怒 狂怒""",
    "surprise": """
        惊讶 驚訝 惊奇 驚奇 吃惊 吃驚 惊喜 驚喜 震惊 震驚 诧异 詫異 惊愕 驚愕 感到意外 觉得意外 覺得意外
        很意外 惊异 驚異 惊诧 驚詫""",
    "disgust": "厌恶 厭惡 恶心 噁心 惡心 反感 嫌弃 嫌棄 憎恶 憎惡 讨厌 討厭 嫌恶 嫌惡",
    "fear": "恐惧 恐懼 害怕 恐慌 畏惧 畏懼 惧怕 懼怕 惊恐 驚恐 惊慌 驚慌 惊吓 驚嚇 惊惧 驚懼 惶恐",
    "contemptuous": "轻蔑 輕蔑 蔑视 蔑視 鄙视 鄙視 不屑 鄙夷 轻视 輕視 藐视 藐視",
    "disappointed": "失望",
    "helpless": "无助 無助 无奈 無奈 束手无策 束手無策 无能为力 無能為力",
    "anxious": "焦虑 焦慮 焦急 不安 紧张 緊張 焦躁 忐忑",
    "worried": "担心 擔心 担忧 擔憂 忧虑 憂慮 忧心 憂心 发愁 發愁",
    "calm": "平静 平靜 冷静 冷靜 镇定 鎮定 镇静 鎮靜 安详 安詳 平和 宁静 寧靜 淡定 从容 從容",
    "excited": "兴奋 興奮",
    "agitated": "激动 激動",
    "satisfied": "满意 滿意 满足 滿足",
    "dissatisfied": "不满 不滿 不悦 不悅",
    "relieved": "释然 釋然 如释重负 如釋重負",
    "proud": "自豪 骄傲 驕傲",
    "loving": "喜爱 喜愛 爱慕 愛慕 深情",
    "grateful": "感激 感恩",
    "lonely": "孤独 孤獨 寂寞 孤单 孤單",
    "ashamed": "羞愧 羞耻 羞恥 惭愧 慚愧",
    "embarrassed": "尴尬 尷尬 难堪 難堪",
    "guilty": "内疚 內疚 愧疚",
    "remorseful": "后悔 後悔 懊悔 悔恨",
    "jealous": "嫉妒 妒忌 羡慕 羨慕",
    "frustrated": "挫败 挫敗 受挫",
    "confused": "困惑 疑惑 迷茫 不解",
    "curious": "好奇",
    "bored": "无聊 無聊 厌倦 厭倦",
    "indifferent": "冷漠 漠然",
    "hateful": "仇恨 憎恨 痛恨 怨恨",
    "impatient": "不耐烦 不耐煩",
    "shy": "害羞",
}
"""Words by emotion, separated by blanks. An entry that begins with a negator is one word, not a negation."""

HAN_KINDS: Mapping[Kind, str] = {
    Kind.HAN_NEGATOR: """
        不是 并不是 並不是 并非 並非 绝非 絕非 而非 没有 沒有 并没有 並沒有 并未 並未 毫无 毫無 从未 從未 从不
        從不 不再 不会 不會 缺乏 缺少 看不出 看不到 感觉不到 感覺不到 感受不到 谈不上 談不上 算不上 称不上
        稱不上 与其说 與其說 并不 並不 毫不 而不是 不太""",
    Kind.HAN_SHORT_NEGATOR: "没 沒 不 无 無 未",
    Kind.HAN_PREFIX: "非",
    Kind.NOT_NEGATOR: """
        不仅 不僅 不但 不只 不光 不止 不禁 不由得 不由自主 忍不住 禁不住 不得不 不能不 不可能不 不会不 不會不
        不无 不無 无不 無不 无疑 無疑 毫无疑问 毫無疑問 不断 不斷 不停 不已 不久 不时 不時 不少 不同 不知 不料
        不一会 不自觉 不自覺 不经意 不經意 不免 不胜 不勝 不小心 不如 不妨 不愧 不过 不過 不可思议 不可思議
        差不多 了不起 对不起 對不起 无比 無比 无论 無論 无数 無數 无声 無聲 无限 無限 无意中 無意中 无法掩饰
        無法掩飾 无法抑制 無法抑制 无法控制 無法控制 无法隐藏 無法隱藏 掩饰不住 掩飾不住 掩盖不住 掩蓋不住
        抑制不住 压抑不住 壓抑不住 控制不住 藏不住 按捺不住 止不住 不掩饰 不掩飾 没有掩饰 沒有掩飾 毫不掩饰
        毫不掩飾 并不掩饰 並不掩飾 未来 未來 没想到 沒想到 沉没 淹没 淹沒
        生气勃勃 生氣勃勃 充满生气 充滿生氣 中立国 中立國 中性笔 中性筆 愤怒的小鸟""",
    Kind.HAN_TURN: "很 非常 十分 极其 極其 极度 極度 异常 異常 显得 顯得 看起来 看起來 看上去 似乎 表现 表現",
    Kind.CONTRAST: "而是 但是 但 却 卻 反而 而 只是 只有 更多的是 倒是 因为 因為 所以",
    Kind.HAN_LINK: "和 或 或者 与 與 及 以及 、 还是 還是",
}
"""Words and marks, separated by blanks; `NOT_NEGATOR` also has words that only contain an emotion."""
