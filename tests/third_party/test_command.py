"""Somebody else's command."""


def test_it_is_listed_and_runs(glocal_beside_stripes):
    assert "count" in glocal_beside_stripes("--help")
    assert "Say how many images there are" in glocal_beside_stripes("count", "--help")
    assert glocal_beside_stripes("count", "stripes:12", "--split", "test") == "12 images\n"
