"""Vocabulary of the generated suite ``kpi-mini``: topic words, title words and graded opinion words in two languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

N_TOPICS = 10


@dataclass(frozen=True)
class Language:
    """Words of one KG. ``topics``: N_TOPICS rows of words; ``opinions``: from worst to best; ``fillers`` carry no signal."""

    topics: tuple[tuple[str, ...], ...]
    suffixes: Mapping[str, tuple[str, ...]]
    title_starts: tuple[str, ...]
    title_ends: tuple[str, ...]
    fillers: tuple[str, ...]
    opinions: tuple[str, ...]


def _rows(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(line.split()) for line in text.strip().splitlines())


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ENGLISH = Language(
    topics=_rows("""
        Space Galaxy Starship Robot Cosmic Orbit
        Crime Detective Gangster Heist Noir Mafia
        Romance Love Wedding Heart Kiss Summer
        Horror Ghost Vampire Zombie Haunted Midnight
        Sport Racing Football Champion Stadium Arena
        War Battle Soldier Tank Empire Siege
        Magic Dragon Wizard Fairy Sword Kingdom
        Comedy Funny Clown Party Holiday Prank
        History Ancient Castle Roman Pharaoh Legend
        Nature Ocean Wildlife Forest Mountain River
    """),
    suffixes={
        "category": _words("Collection Essentials Classics Imports Editions Stories Favorites Boxsets"),
        "brand": _words("Studio Records Works Media House Brothers Digital Pictures Entertainment Labs"),
        "salesrank": ("Charts",),
    },
    title_starts=_words(
        "Golden Silent Broken Hidden Lucky Second Last Little Great Blue Crimson Early Open Quiet Rapid Simple "
        "Twin Upper Velvet White Young Zero Amber Bright Clever Double"
    ),
    title_ends=_words(
        "Door Window Letter Bridge Street Garden Mirror Signal Number Promise Return Secret Question Answer Record "
        "Island Corner Lantern Thread Hour Paper Circle Station Season Echo Anchor"
    ),
    fillers=_words(
        "the a it was with and for my this have you from about when item box disc arrived bought friend week "
        "version copy really just some also after before"
    ),
    opinions=_words(
        "awful terrible horrible unwatchable worthless dreadful boring disappointing weak annoying dull mediocre "
        "bland ordinary average acceptable decent fine pleasant good enjoyable solid lovely great strong delightful "
        "excellent brilliant wonderful superb masterpiece perfect"
    ),
)

# Cue words of the yes/no questions. Their order is their (hidden) bearing on the answer, from no to yes.
QUESTION_CUES = _words(
    "refund region japanese import mac linux voucher subtitle cartridge warranty splitscreen headset account "
    "manual offline battery controller adapter memory keyboard update trial wireless children windows multiplayer "
    "online sealed original console"
)

CHINESE = Language(
    topics=_rows("""
        科幻 太空 宇宙 机器人 星际 未来
        犯罪 侦探 悬疑 黑帮 推理 警察
        爱情 恋爱 浪漫 青春 婚姻 初恋
        恐怖 鬼怪 惊悚 僵尸 吸血鬼 午夜
        体育 足球 赛车 冠军 热血 奥运
        战争 军事 士兵 帝国 抗战 硝烟
        奇幻 魔法 巫师 龙族 仙侠 神话
        喜剧 搞笑 幽默 小品 相声 讽刺
        历史 古代 宫廷 王朝 传记 考古
        自然 海洋 动物 森林 旅行 纪录
    """),
    suffixes={
        "genre": _words("类 系列 精选 专题 主义 风格 经典 片单"),
        "person": _words(
            "李伟 王芳 张敏 刘洋 陈静 杨磊 赵军 黄勇 周杰 吴霞 徐涛 孙丽 胡斌 朱琳 高峰 林娜 何超 郭强"
        ),
        "region": _words("大陆 香港 台湾"),
        "era": _words("年代 世纪 时期"),
    },
    title_starts=_words(
        "沉默 金色 最后 隐秘 遥远 第二 小小 蓝色 破碎 安静 双生 白色 年轻 透明 漫长 幸运 北方 南方 昨日 明日"
    ),
    title_ends=_words(
        "之门 窗口 来信 大桥 街道 花园 镜子 信号 数字 约定 归来 秘密 问题 回答 记录 岛屿 角落 灯火 车站 回声"
    ),
    fillers=_words(
        "这张 专辑 觉得 就是 还有 一个 自己 没有 可以 什么 时候 现在 因为 听了 音乐 歌手 今天 朋友 推荐 第一次"
    ),
    opinions=_words(
        "垃圾 难听 失望 恶心 糟糕 浪费 无聊 刺耳 平庸 空洞 乏味 一般 凑合 普通 还行 可以听 不错 耐听 舒服 喜欢 "
        "好听 动人 精彩 优秀 惊艳 经典好碟 震撼 完美 神作 天籁"
    ),
)
