"""What the pages about clusters show to be set, taken from there: a test that uses it shows that it works."""

from tests.e2e.test_docs import Block, blocks

APISERVER = "docs/kubernetes/apiserver.md"
NETWORKS = "docs/kubernetes/networks.md"


def shown(page: str, language: str, *parts: str) -> str:
    """The text of the one block of this language on a page that has all these parts."""
    found = [each for each in blocks(page) if each.language == language and _has(each, parts)]
    places = [f"{page}:{each.line}" for each in found]
    assert len(found) == 1, f"{parts} are to be in one block of {language} on {page}, and are in {places}"
    return found[0].text


def put(text: str, **examples: str) -> str:
    """The text with an example's words in the place of the page's: old=new, each of which it has."""
    for old, new in examples.items():
        assert old in text, f"the page does not say {old} any longer:\n{text}"
        text = text.replace(old, new)
    return text


def _has(block: Block, parts: tuple[str, ...]) -> bool:
    return all(part in block.text for part in parts)
