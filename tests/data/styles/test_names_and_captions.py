"""Names of emoji, captions with a style, and reading both from a caption."""

import pytest

from vilg.data.styles.captions import captions_of, parse, prompt
from vilg.data.styles.catalogue import BY_NAME, COMMONEST, STYLES
from vilg.data.styles.names import all_emoji, slug, written_name

pytest.importorskip("emoji", reason="emoji is not installed: pip install 'vilg[demo]'")


@pytest.fixture(scope="module")
def emoji():
    return {one.text: one for one in all_emoji()}


@pytest.mark.parametrize(
    "text, name, written",
    [
        ("🇨🇬", "刚果_布", "刚果（布）的旗帜"),
        ("🇫🇷", "法国", "法国的旗帜"),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "英格兰", "英格兰的旗帜"),
        ("👨‍🦰", "男人_红发", "红发的男人"),
        ("👨‍👦", "家庭_男人男孩", "家庭：男人男孩"),
        ("#⃣", "按键_#", "按键#"),
        ("🍎", "红苹果", "红苹果"),
    ],
)
def test_names_are_written_as_people_write_them(text, name, written):
    assert written_name(text, name) == written


def test_all_names(emoji):
    assert len(emoji) == 1923
    assert not [one.names for one in emoji.values() if any("_" in name or not name.strip() for name in one.names)]
    usual = [one.names[0] for one in emoji.values()]
    assert len(set(usual)) == len(usual)


def test_slugs():
    assert slug(":red_heart:") == "red-heart" and slug(":man’s_shoe:") == "mans-shoe"


def test_captions_say_thing_and_style_in_several_orders(emoji):
    captions = captions_of(emoji["🍎"], BY_NAME["fluent-emoji"])
    assert {"立体风格的红苹果", "红苹果，立体风格", "用立体风格画的红苹果", "三维风格的红苹果", "红苹果，三维"} <= set(
        captions
    )
    assert all("红苹果" in caption and ("立体" in caption or "三维" in caption) for caption in captions)


def test_half_of_the_captions_of_the_commonest_style_do_not_name_it(emoji):
    captions = captions_of(emoji["🍎"], COMMONEST)
    named = [caption for caption in captions if any(phrase in caption for phrase in COMMONEST.phrases)]
    assert 2 * len(named) == len(captions) and {"红苹果", "红苹果，健康，水果，熟"} <= set(captions)


def test_each_caption_can_be_read_again(emoji):
    for one in emoji.values():
        for style in STYLES:
            for caption in captions_of(one, style):
                name, found = parse(caption)
                assert name in one.names and found is style, caption


def test_captions_of_no_style():
    assert parse("红苹果") == ("红苹果", COMMONEST) and parse("") == ("", COMMONEST)
    assert parse("红苹果，水果") == ("红苹果", COMMONEST)


def test_prompts():
    assert prompt("红苹果", BY_NAME["emojione-monotone"]) == "黑白剪影风格的红苹果"


def test_no_phrase_can_be_taken_for_another_one():
    phrases = [phrase for style in STYLES for phrase in style.phrases]
    assert len(set(phrases)) == len(phrases)
