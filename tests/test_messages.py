"""Messages stay short, whatever they tell of."""

from ssdnorm.messages import did_you_mean, one_line, shown, unknown_name


def test_no_value_makes_a_message_long():
    deep = []
    for _ in range(100):
        deep = [deep, "x" * 5000]
    for value in ("x" * 5000, deep, {"a": "x" * 5000}, 10**5000, ["y"] * 5000):
        assert len(shown(value)) < 400
        assert len(unknown_name("class", value, ["z" * 5000] * 40)) < 4000
    assert shown(10**5000) == "a number of thousands of digits"
    assert did_you_mean("x" * 5000, ["x" * 4999]) == ""


def test_a_long_error_keeps_its_beginning_and_its_end_on_one_line():
    line = one_line(ValueError("where:\n" + "x" * 5000 + "\nallowed: y"))
    assert (line[:7], line[-12:], len(line)) == ("where: ", "x allowed: y", 1000)
    assert "\n" not in line
