"""What language a text is in, as far as a judge of English needs to know it."""

import pytest

from vectomy.metrics.judges.language import find_foreign_language

TIER = "unit"

# Each language twice: a refusal, and the weather or a recipe.
FOREIGN = {
    "de": ("Es tut mir leid, aber dabei kann ich dir nicht helfen.", "Morgen wird es im Norden regnen."),
    "fr": ("Désolé, je ne peux pas vous aider.", "Demain il pleuvra dans le nord et il fera beau au sud."),
    "es": ("Lo siento, no puedo ayudarte con eso.", "Mezcla la harina, los huevos y la leche."),
    "it": ("Mi dispiace, non posso aiutarti con questo.", "Domani pioverà al nord e ci sarà il sole al sud."),
    "pt": ("Desculpe, não posso ajudar com isso.", "Misture a farinha, os ovos e o leite."),
    "nl": ("Daar kan ik je niet bij helpen.", "Meng de bloem, de eieren en de melk."),
    "sv": ("Jag kan inte hjälpa dig med det.", "I morgon regnar det i norr och det blir soligt i söder."),
    "fi": ("Valitettavasti en voi auttaa siinä.", "Huomenna pohjoisessa sataa ja etelässä on aurinkoista."),
    "pl": ("Przepraszam, ale nie mogę w tym pomóc.", "Jutro na północy będzie padać, a na południu nie."),
    "cs": ("Omlouvám se, ale s tím vám nemohu pomoci.", "Zítra bude na severu pršet a na jihu slunečno."),
    "hu": ("Sajnálom, de ebben nem tudok segíteni.", "Holnap északon esni fog, délen pedig napos idő lesz."),
    "ro": ("Îmi pare rău, dar nu te pot ajuta.", "Mâine va ploua în nord și va fi soare în sud."),
    "tr": ("Üzgünüm, bu konuda yardımcı olamam.", "Yarın kuzeyde yağmur yağacak ve güneyde güneş açacak."),
    "vi": ("Xin lỗi, tôi không thể giúp bạn.", "Ngày mai miền bắc sẽ có mưa và miền nam có nắng."),
    "id": (
        "Maaf, saya tidak bisa membantu dengan itu.",
        "Besok akan turun hujan di utara dan cerah di sana.",
    ),
    "tl": ("Paumanhin, hindi ako makakatulong diyan.", "Bukas ay uulan sa hilaga at maaraw sa timog."),
    "sw": ("Samahani, siwezi kusaidia na hilo.", "Kesho mvua itanyesha na jua litawaka kusini mwa nchi."),
    "CYRILLIC": ("Извините, я не могу помочь с этим.", "Завтра на севере будет дождь."),
    "GREEK": ("Λυπάμαι, αλλά δεν μπορώ να βοηθήσω.", "Αύριο θα βρέξει στα βόρεια."),
    "CJK": ("很抱歉,作为AI助手,我无法回答这个问题。", "明日は北で雨、南で晴れるでしょう。"),
    "HANGUL": ("죄송하지만 도와드릴 수 없습니다.", "내일 북쪽에는 비가 오겠습니다."),
    "ARABIC": ("آسف، لا أستطيع مساعدتك في ذلك.", "غدا ستمطر في الشمال."),
    "HEBREW": ("מצטער, אני לא יכול לעזור בזה.", "מחר ירד גשם בצפון."),
    "DEVANAGARI": ("क्षमा करें, मैं इसमें मदद नहीं कर सकता।", "कल उत्तर में बारिश होगी।"),
    "THAI": ("ขออภัย ฉันไม่สามารถช่วยเรื่องนี้ได้", "พรุ่งนี้ฝนจะตกทางเหนือ"),
}
ENGLISH = [
    "",
    "42",
    "3.14159, 2.71828; 1 2 3",
    "No.",
    "Yes.",
    "Paris",
    "São Paulo",
    "Los Angeles, La Paz, Rio de Janeiro and San José",
    "Jürgen Klopp, Thomas Müller, Jérôme Boateng",
    "1. Crème brûlée\n2. Pâté\n3. Soufflé",
    "She ordered a café au lait and read Le Monde, as one does à Paris.",
    "I can't help with that",
    "sure the owl is here now",
    "The German word 'Haus' means house, and 'die Katze' means the cat.",
    "你好 means hello in Chinese, and it is used every day.",
    "Let α and β be angles with α + β = π; then sin α = sin β.",
    "this. This article is justs when the and not of a the it",
    "import os\nfor name in os.listdir('.'):\n    print(name)",
    "```python\n# das ist nicht die Zahl und der Wert\nfor i in range(10): pass\n```",
    "SELECT name, town FROM la_paz WHERE y = 1 AND no = 'de' ORDER BY name",
    "def mean(xs):\n    total = sum(xs)\n    return total / len(xs) if xs else 0.0",
    "la la la la la, sang the choir of the school",
]


@pytest.mark.parametrize(
    ("language", "text"), [(code, text) for code, given in FOREIGN.items() for text in given]
)
def test_other_languages_are_found_in_one_sentence(language: str, text: str) -> None:
    found = find_foreign_language(text)
    assert found is not None
    # Close relatives may be taken for each other; scripts are not.
    assert language.islower() or found == language


@pytest.mark.parametrize("text", ENGLISH)
def test_english_code_numbers_and_names_are_not_another_language(text: str) -> None:
    assert find_foreign_language(text) is None


def test_a_language_without_a_list_is_told_by_its_letters() -> None:
    assert find_foreign_language("Þykir leitt, ómögulegt svara þessari spurningu núna") == "Latin script"
