"""English words by the emotion that they name: nouns, adjectives, verbs and adverbs, and near synonyms.

Each word has one emotion. Left out are signs of emotions (smile, tears, shout), words with other main meanings
(content, blue, down, fine), and adverbs that judge a sentence (surprisingly, interestingly).
"""

from collections.abc import Mapping

ENGLISH: Mapping[str, str] = {
    "happy": """
        happy happier happiest happily happiness joy joyful joyfully joyfulness joyous joyously joys glad gladly
        gladness cheer cheerful cheerfully cheerfulness cheery delight delighted delightedly delightful delights
        pleased ecstatic ecstatically ecstasy elated elation elatedly jubilant jubilation jubilantly gleeful
        gleefully glee merry merrily merriment overjoyed blissful blissfully bliss euphoric euphoria jolly jovial
        enjoy enjoys enjoyed enjoying enjoyment rejoice rejoices rejoiced rejoicing thrilled exhilarated
        exhilaration upbeat""",
    "sad": """
        sad sadder saddest sadly sadness sadden saddens saddened saddening sorrow sorrows sorrowful sorrowfully
        unhappy unhappier unhappily unhappiness grief grieve grieves grieved grieving griefstricken mourn mourns
        mourned mourning mournful mournfully melancholy melancholic melancholia gloomy gloomily gloom glum glumly
        miserable miserably misery heartbroken heartbreak heartache dejected dejectedly dejection despondent
        despondency despondently depressed depressing depression downcast downhearted disheartened dispirited
        despair despaired despairs despairing despairingly woeful woefully woe forlorn forlornly crestfallen
        disconsolate desolate doleful dolefully grief_stricken""",
    "neutral": """
        neutral neutrally neutrality expressionless expressionlessly emotionless emotionlessly unemotional
        unemotionally impassive impassively deadpan stoic stoically emotionlessness""",
    "angry": """
        angry angrier angriest angrily anger angers angered angering furious furiously fury furor rage rages raged
        raging enrage enrages enraged enraging irate irately wrath wrathful wrathfully mad madder livid outrage
        outraged outraging infuriate infuriates infuriated infuriating irritate irritates irritated irritating
        irritation irritable irritably irritability annoy annoys annoyed annoying annoyance annoyedly incensed
        indignant indignantly indignation resentful resentfully resentment resent exasperated exasperation
        exasperating hostile hostility seething fuming irked pissed_off fed_up""",
    "surprise": """
        surprise surprises surprised surprisedly surprising astonish astonishes astonished astonishing astonishment
        amaze amazes amazed amazement astound astounded astounding startle startles startled startling shock
        shocked shocks shocking stunned dumbfounded flabbergasted dumbstruck thunderstruck gobsmacked astonishedly
        taken_aback caught_off_guard""",
    "disgust": """
        disgust disgusts disgusted disgustedly disgusting disgustingly revulsion revolted revolting repulsed
        repulsion repulsive repelled repugnance repugnant loathe loathes loathed loathing loathsome aversion averse
        distaste distasteful abhor abhors abhorred abhorrence abhorrent sickened nauseated detest detests detested
        detestation grossed_out""",
    "fear": """
        fear fears feared fearing fearful fearfully fearfulness afraid scare scares scared scaring scary scarily
        scaredly fright frighten frightens frightened frightening frighteningly terror terrified terrify terrifies
        terrifying terrifiedly horrified horrify horrifying horror panic panics panicked panicking panicky
        panicstricken dread dreads dreaded dreading petrified spooked alarmed terrorstricken freaked_out
        panic_stricken terror_stricken""",
    "contemptuous": """
        contemptuous contemptuously contempt contemptuousness scorn scorns scorned scornful scornfully disdain
        disdains disdained disdainful disdainfully derision derisive derisively despise despises despised despising
        condescending condescension condescendingly""",
    "disappointed": """
        disappointed disappoint disappoints disappointing disappointingly disappointment disappointments
        disappointedly disillusioned disillusionment disillusion let_down""",
    "helpless": """
        helpless helplessly helplessness powerless powerlessly powerlessness defenceless defenseless
        defencelessness""",
    "anxious": """
        anxious anxiously anxiousness anxiety anxieties nervous nervously nervousness uneasy uneasily uneasiness
        unease apprehensive apprehensively apprehension jittery fretful ill_at_ease on_edge""",
    "worried": "worried worriedly worry worries worrying worrisome worriedness",
    "calm": """
        calm calmer calmest calmly calmness serene serenely serenity tranquil tranquilly tranquillity tranquility
        peaceful peacefully peacefulness placid placidly relaxed relaxedly unruffled at_ease""",
    "excited": """
        excited excitedly excitement exciting excite excites enthusiastic enthusiastically enthusiasm eager eagerly
        eagerness""",
    "agitated": "agitated agitatedly agitation",
    "amused": "amused amuse amuses amusing amusement amusedly",
    "satisfied": """
        satisfied satisfaction satisfying satisfy contented contentedly contentment gratified gratification""",
    "dissatisfied": "dissatisfied dissatisfaction displeased displeasure discontent discontented discontentment",
    "relieved": "relieved relief relieve relieves",
    "proud": "proud prouder proudest proudly pride prideful",
    "loving": """
        loving lovingly love loves loved affectionate affectionately affection tender tenderly tenderness adore
        adores adored adoring adoration""",
    "grateful": "grateful gratefully gratitude thankful thankfulness appreciative",
    "hopeful": "hopeful hopefulness hope hopes",
    "optimistic": "optimistic optimistically optimism",
    "hopeless": "hopeless hopelessly hopelessness",
    "pessimistic": "pessimistic pessimistically pessimism",
    "lonely": "lonely loneliness lonesome",
    "ashamed": "ashamed ashamedly shame shamed shameful shamefully humiliated humiliation mortified mortification",
    "embarrassed": "embarrassed embarrassing embarrass embarrassment embarrassedly",
    "guilty": "guilty guiltily guilt",
    "remorseful": "remorseful remorsefully remorse regret regrets regretted regretful regretfully",
    "jealous": "jealous jealously jealousy envy envious enviously envies envied",
    "frustrated": "frustrated frustratedly frustration frustrating frustrate",
    "confused": """
        confused confusedly confusion confusing confuse puzzled puzzlement puzzling perplexed perplexity bewildered
        bewilderment baffled baffling""",
    "doubtful": "doubtful doubtfully sceptical skeptical scepticism skepticism suspicious suspiciously suspicion",
    "curious": "curious curiously curiosity inquisitive interested intrigued",
    "bored": "bored boredom boring bore bores",
    "indifferent": "indifferent indifferently indifference apathetic apathy unconcerned",
    "tense": "tense tensely tension stressed stress stressful",
    "upset": "upset upsets upsetting distressed distress distressing distraught",
    "desperate": "desperate desperately desperation",
    "pensive": "pensive pensively pensiveness",
    "shy": "shy shyly shyness bashful bashfully timid timidly timidity",
    "sympathetic": """
        sympathetic sympathetically sympathy compassionate compassionately compassion pity empathetic empathy""",
    "admiring": "admiring admiringly admiration admire admires admired",
    "trusting": "trusting trustingly trust trusts trusted",
    "awed": "awed awe awestruck",
    "anticipating": "anticipating anticipation anticipate anticipates anticipated expectant expectantly",
    "aggressive": "aggressive aggressively aggression aggressiveness",
    "hateful": "hate hates hated hating hateful hatefully hatred",
    "sarcastic": "sarcastic sarcastically sarcasm mocking mockingly mockery",
    "impatient": "impatient impatiently impatience",
    "determined": "determined determinedly determination resolute resolutely",
    "nostalgic": "nostalgic nostalgically nostalgia",
}
"""Words by emotion in lower case, separated by blanks; `_` is a blank or hyphen within a phrase."""
