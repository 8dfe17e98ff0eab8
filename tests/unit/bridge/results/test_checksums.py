from bridge.results import checksums

SHA = "0" * 64


def test_an_ordinary_name_stands_behind_two_spaces() -> None:
    assert checksums.line(SHA, "outputs/a b") == f"{SHA}  outputs/a b\n".encode()


def test_newline_backslash_and_return_are_escaped_and_the_line_is_marked() -> None:
    assert checksums.line(SHA, "a\nb\\c\rd") == f"\\{SHA}  a\\nb\\\\c\\rd\n".encode()


def test_bytes_that_are_not_utf8_stay_what_they_are() -> None:
    assert checksums.line(SHA, "a\udcff") == SHA.encode() + b"  a\xff\n"
