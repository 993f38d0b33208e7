# SPDX-License-Identifier: Apache-2.0
"""Texts for the comparison of tokenizers: ordinary prompts, and everything that can go wrong in one."""

import random
import unicodedata

from tokenizers import normalizers

CLIP_SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|StartOfText|>", "<|ENDOFTEXT|>", "<|endoftext"]
T5_SPECIALS = ["</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_7>", "<extra_id_99>", "<extra_id_100>",
               "<Extra_id_1>", "＜pad＞", "<ｐad>", "＜/s＞", "＜unk＞", "＜extra_id_3＞", "<extra_id_05>"]

FIXED = [
    "", " ", "   ", "\n", "\t \n", "a", "A", "A Photo of  a CAT!", "masterpiece, best quality, 1girl, 2024",
    "don't stop, it's fine", "I'm, you're, we've, he'll, they'd, DON'T, It'S", "''s 's' s's 'S", "naïve café",
    "nai\u0308ve cafe\u0301", "日本語", "🐱", "x " * 30, "x" * 30, "👩‍👩‍👧‍👦 family", "e\u0301\u0301\u0323", "ΟΔΥΣΣΕΥΣ ὈΔΥΣΣΕΎΣ ς",
    "İstanbul ISPARTA ıI", "STRAẞE straße", "“curly” ‘quotes’ …", "&amp; &lt;b&gt;", "ＡＢＣ ﬁne ﬂ", "½ ⅓ ² ③ Ⅷ ⅷ",
    "a\u00a0b\u3000c\u200bd\ufeffe", "a\u0000b", "\u0000", "\ufeffstart", "tab\tnew\nline\r\nend", "\u0085\u2028\u2029 x",
    "\u001c\u001d\u001e\u001f x", "a▁b ▁c d▁ ▁▁ ▁", "▁", " ▁ ▁x", "ab" * 400, "-" * 500, "1234567890", "3.14159 1,000,000",
    "한국어 각각", "\u1100\u1161\u11a8", "हिन्दी क्षत्रिय", "العربية", "ก็", "\u0344", "\u212b \u2126 \u1fbe K",
    "ｶﾞ ﾊﾟ", "ｅ\u0301 ﬁ\u0301", "①\u0301", "ǅ ǆ Ǆ", "Ⴀ ა Ა", "Ꭰ ꭰ", "𝐁𝐨𝐥𝐝 𝒮", "🇩🇪🇫🇷", "👍🏽", "\U0010ffff", "\ue000",
    "\u0301", "\u0301a", "a\u0338\u0301", "<", "<<|>>", "http://example.org/?q=1&r=2", "snake_case CamelCase", "((tag:1.2)), [x|y]",
    "mytoken_mascot", "sks dog", "ohwx man", "a photo of mytoken_mascot standing on the left, blue background",
    "\u2167\u00aa\u00ba\u02b0", "\u0bf0\u0f33\u3007", "\u200d", "\u180e\u2060", "x\u0300" * 40, "ʼn ŉ ǰ ΐ", "\u1e9e", "𐐀 𐐨",
]

WORDS = """a an the of on in with red blue big small circle square photo painting portrait background standing left
right cat dog House TREE River naïve café Über GROSS señor l'été don't it's we're 1girl 2024 4k 8K hdr (masterpiece)
best-quality, award; "quoted" semi:colon ... !! ?! mytoken sks ohwx Stable-Diffusion #hashtag @user 50% $5 €20 ½
日本 東京 猫 한국 Привет МИР Ελλάς שלום مرحبا हिन्दी ไทย 🐱 🎨🖌️ 👩‍🚀 ﬁ ＡＢ １２ … — – ’ “""".split()
SPACES = [" ", " ", " ", " ", "  ", "\n", "\t", "\u00a0", "\u3000", "\r\n", "", "\u2003"]


def newer_marks():
    """Combining marks that the reference's NFC, made for Unicode 9, takes for ordinary characters.

    Its lowercase and its patterns know newer versions; here we follow Unicode, not the reference."""
    nfc = normalizers.NFC()
    marks = (chr(c) for c in range(0x110000) if unicodedata.category(chr(c)).startswith("M"))
    probes = {m: f"\u0301{m} {m}\u0334 {m}\u0316\u0301" for m in marks}
    return {ord(m) for m, p in probes.items() if nfc.normalize_str(p) != unicodedata.normalize("NFC", p)}


def assigned():
    """Code points that the Unicode of this Python knows, without surrogates, private use, newer_marks()."""
    points = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    newer = newer_marks()
    assert len(newer) < 150  # none of them in a living language's ordinary text
    return [c for c in points if c not in newer]


def texts(count, specials):
    """count texts, the same ones for the same arguments."""
    rng = random.Random(20261125)
    points = assigned()
    common = [c for c in points if c < 0x3000]
    marks = [c for c in points if unicodedata.category(chr(c)).startswith("M")]
    out = list(FIXED) + list(specials)
    out += [f"a {s} b" for s in specials] + [f"x{s}{s}y{s}" for s in specials]

    def prompt(words):
        return "".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(words))

    def scrambled(text):
        return "".join(c.upper() if rng.random() < 0.5 else c for c in text)

    makers = [
        lambda: prompt(rng.randint(1, 12)),
        lambda: prompt(rng.randint(60, 300)),
        lambda: scrambled(prompt(rng.randint(1, 15))),
        lambda: unicodedata.normalize(rng.choice(["NFC", "NFD", "NFKC", "NFKD"]), prompt(rng.randint(1, 15))),
        lambda: "".join(chr(rng.choice(points)) for _ in range(rng.randint(1, 30))),
        lambda: "".join(chr(rng.choice(common)) for _ in range(rng.randint(1, 40))),
        lambda: "".join(chr(rng.randrange(0x300)) for _ in range(rng.randint(1, 60))),
        lambda: "".join(chr(rng.choice(common)) + "".join(chr(rng.choice(marks)) for _ in range(rng.randrange(4)))
                        for _ in range(rng.randint(1, 12))),
        lambda: "".join(rng.choice("aeiouncsAEIOUNCS")
                        + "".join(chr(0x300 + rng.randrange(0x40)) for _ in range(rng.randrange(3)))
                        for _ in range(rng.randint(1, 20))),
        lambda: "".join(chr(rng.randrange(32, 127)) for _ in range(rng.randint(1, 80))),
        lambda: (prompt(rng.randint(0, 4)) + rng.choice(specials) + rng.choice(["", " ", "x"])
                 + prompt(rng.randint(0, 4))),
        lambda: "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 40))),
    ]
    while len(out) < count:
        out.append(rng.choice(makers)())
    return out
