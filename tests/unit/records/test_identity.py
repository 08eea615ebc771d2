from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest

from evalkit.records import EngineIdentity, build


def test_every_field_is_part_of_the_digest(made):
    identity = made.identity
    for field in fields(identity):
        value = getattr(identity, field.name)
        other = {"another": 1} if isinstance(value, dict) else "another"
        assert replace(identity, **{field.name: other}).sha256 != identity.sha256, field.name


def test_the_digest_is_that_of_what_is_stored(made):
    assert build(EngineIdentity, asdict(made.identity)).sha256 == made.identity.sha256


def test_an_identity_cannot_be_changed(made):
    with pytest.raises(AttributeError):
        made.identity.model = "another"
