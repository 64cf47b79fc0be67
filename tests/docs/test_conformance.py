"""docs/conformance.md names the clients, the differences and the number of scripts that the tests have.

`make docs` writes the differences anew, `make conformance` all of it.
"""

from __future__ import annotations

import re

from tests.labs.conformance.report import DOCUMENT, differences
from tests.support.clients.roster import CLIENTS
from tests.support.conformance.scripts import SCRIPTS


def test_the_document_is_that_of_the_code() -> None:
    text = DOCUMENT.read_text()
    assert "\n".join(differences()) in text
    assert re.findall(r"^\| (.*?) \| .* \| same, ", text, re.MULTILINE) == [client.name for client in CLIENTS]
    assert re.findall(r"(\d+) scripts played, 0 with", text) == [str(len(SCRIPTS))] * 2
